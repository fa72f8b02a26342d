"""The same chat, tuned by what profiling shows: JSON is made once a message, by orjson, and a delivery is handed on
without a hop to a database thread that it does not need. It still saves each message before it is broadcast."""

import orjson

from .consumers import ChatConsumer


class TunedChatConsumer(ChatConsumer):
    async def dispatch(self, message):
        # Channels would first close old database connections, in a thread; a delivery uses none.
        if message["type"] == "chat_message":
            await self.base_send({"type": "websocket.send", "text": message["text"]})
        else:
            await super().dispatch(message)

    async def broadcast(self, message):
        text = self.dumps(
            {
                "type": "chat_message",
                "message": message.content,
                "sender_id": str(self.user.id),
                "sender_username": self.user.username,
                "message_id": str(message.id),
                "timestamp": message.timestamp.isoformat(),
                "receiver_id": str(message.receiver_id) if message.receiver_id else None,
            }
        )
        await self.channel_layer.group_send(self.room_group_name, {"type": "chat_message", "text": text})

    def loads(self, text):
        return orjson.loads(text)

    def dumps(self, value):
        return orjson.dumps(value).decode()
