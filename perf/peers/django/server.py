"""The original application on Django Channels, served by uvicorn on a free port of the loopback.

    PEER_VARIANT=stock|tuned DATABASE_URL=postgres://… REDIS_URL=redis://… python server.py

stock: the application as its authors describe it, on asyncio's own loop and uvicorn's defaults. tuned: as a good
engineer would run it, on uvloop, without compression, and with what start-up made out of the garbage collector's
sight. Logging is off in both: uvicorn would write each connection's address down, with the token in it."""

import gc
import os
import socket

import uvicorn

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

from project.asgi import application  # noqa: E402 (needs the settings)

VARIANTS = {
    "stock": {"loop": "asyncio"},
    "tuned": {"loop": "uvloop", "ws_per_message_deflate": False},
}


def main():
    variant = os.environ["PEER_VARIANT"]
    config = uvicorn.Config(application, log_level="warning", access_log=False, lifespan="off", **VARIANTS[variant])
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        if variant == "tuned":
            gc.collect()
            gc.freeze()
            gc.set_threshold(100_000, 50, 50)
        print(f"django-{variant} is listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
