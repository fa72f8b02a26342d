"""The chat as the original's description has it, and as such code is written: a consumer a connection, a group a room,
each message saved before it is sent to the group, JSON made by each member's consumer for itself.

It takes a database thread for each message to save it, and one more for each message and each delivery that nobody
wrote: Channels closes old database connections before it calls any handler."""

import json
from urllib.parse import parse_qs

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from rest_framework.authtoken.models import Token

from .models import ChatRoom, Message

UNAUTHORIZED = 4001
NOT_A_MEMBER = 4003
MESSAGE_CHARS_MAX = 4096


class ChatConsumer(AsyncWebsocketConsumer):
    async def connect(self):
        self.room_group_name = None
        self.chat_room_id = self.scope["url_route"]["kwargs"]["chat_room_id"]
        # Accepted first: a close code reaches a client only on an open connection.
        await self.accept()
        token = parse_qs(self.scope["query_string"].decode()).get("token", [None])[0]
        self.user = await self.verify_token(token)
        if self.user is None:
            return await self.close(code=UNAUTHORIZED)
        if not await self.verify_chat_room_membership():
            return await self.close(code=NOT_A_MEMBER)
        self.room_group_name = f"chat_{self.chat_room_id}"
        await self.channel_layer.group_add(self.room_group_name, self.channel_name)
        await self.send_json(
            {
                "type": "connection_established",
                "message": f"Connected to chat room {self.chat_room_id}",
                "user_id": str(self.user.id),
                "username": self.user.username,
            }
        )

    async def disconnect(self, close_code):
        if self.room_group_name is not None:
            await self.channel_layer.group_discard(self.room_group_name, self.channel_name)

    async def receive(self, text_data=None, bytes_data=None):
        try:
            data = self.loads(text_data or "")
        except ValueError:
            return await self.send_error("Invalid JSON format")
        if not isinstance(data, dict):
            return await self.send_error("Message must be a JSON object")
        if "type" not in data:
            return await self.send_error("Message type is required")
        if data["type"] != "chat_message":
            return await self.send_error("Unknown message type")
        content = data.get("message")
        if not isinstance(content, str):
            return await self.send_error("Message must be a string")
        if not content.strip():
            return await self.send_error("Message cannot be empty")
        if len(content) > MESSAGE_CHARS_MAX:
            return await self.send_error("Message is too long")
        message = await self.save_message(content, data.get("receiver_id"))
        await self.broadcast(message)

    async def broadcast(self, message):
        await self.channel_layer.group_send(
            self.room_group_name,
            {
                "type": "chat_message",
                "message": message.content,
                "sender_id": str(self.user.id),
                "sender_username": self.user.username,
                "message_id": str(message.id),
                "timestamp": message.timestamp.isoformat(),
                "receiver_id": str(message.receiver_id) if message.receiver_id else None,
            },
        )

    async def chat_message(self, event):
        """A message of the group, at each member."""
        await self.send_json(
            {
                "type": "chat_message",
                "message": event["message"],
                "sender_id": event["sender_id"],
                "sender_username": event["sender_username"],
                "message_id": event["message_id"],
                "timestamp": event["timestamp"],
                "receiver_id": event["receiver_id"],
            }
        )

    def loads(self, text):
        return json.loads(text)

    def dumps(self, value):
        return json.dumps(value)

    async def send_json(self, value):
        await self.send(text_data=self.dumps(value))

    async def send_error(self, message):
        await self.send_json({"type": "error", "message": message})

    @database_sync_to_async
    def verify_token(self, key):
        token = Token.objects.select_related("user").filter(key=key).first()
        return token.user if token is not None and token.user.is_active else None

    @database_sync_to_async
    def verify_chat_room_membership(self):
        return ChatRoom.objects.filter(id=self.chat_room_id, members=self.user).exists()

    @database_sync_to_async
    def save_message(self, content, receiver_id):
        return Message.objects.create(
            room_id=self.chat_room_id, sender=self.user, receiver_id=receiver_id, content=content
        )
