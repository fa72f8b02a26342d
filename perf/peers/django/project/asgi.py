"""The ASGI application: the chat's consumer, stock or tuned, on its one path."""

import django

django.setup()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402 (needs the set-up)
from django.conf import settings  # noqa: E402
from django.urls import path  # noqa: E402

from chat.consumers import ChatConsumer  # noqa: E402
from chat.tuned import TunedChatConsumer  # noqa: E402

consumer = TunedChatConsumer if settings.TUNED else ChatConsumer
application = ProtocolTypeRouter(
    {"websocket": URLRouter([path("ws/chat/<uuid:chat_room_id>/", consumer.as_asgi())])}
)
