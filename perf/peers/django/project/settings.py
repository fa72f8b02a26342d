"""The settings of both variants: the database and Redis come from the environment, and the database is one that
`ringroom migrate` made, whose tables are those of these models. What is not set here is as Django has it."""

import os
import secrets
from urllib.parse import unquote, urlsplit

TUNED = os.environ["PEER_VARIANT"] == "tuned"

SECRET_KEY = secrets.token_hex()  # signs nothing here
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "rest_framework.authtoken",
    "channels",
    "account",
    "chat",
]
AUTH_USER_MODEL = "account.User"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

_database = urlsplit(os.environ["DATABASE_URL"])
# A host may be the folder of a Unix socket, which must keep its capitals.
_host, _, _port = _database.netloc.rpartition("@")[2].partition(":")
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": unquote(_host),
        "PORT": _port,
        "USER": unquote(_database.username or ""),
        "PASSWORD": unquote(_database.password or ""),
        "NAME": unquote(_database.path.lstrip("/")),
    }
}
if TUNED:
    # Django's default closes the connection after each use of it.
    DATABASES["default"]["CONN_MAX_AGE"] = None

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [os.environ["REDIS_URL"]]},
    }
}
