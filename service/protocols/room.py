"""The plain room: a frame is a publication, a publication is a frame, as it was."""

from __future__ import annotations

from service.messages import Kind, Publication


def said(channel: str, client_id: str, text: str) -> Publication:
    """Return what everyone in the room reads when a client of the classic chat says something."""
    return Publication(channel, f"Client #{client_id} says: {text}".encode())


def left(channel: str, client_id: str) -> Publication:
    """Return what the room reads when a client of the classic chat has gone, however it went."""
    return Publication(channel, f"Client #{client_id} left the chat".encode())


def frame(channel: str, message: str | bytes) -> Publication:
    """Return the publication of a frame that a client sent: text stays text, binary stays binary."""
    if isinstance(message, str):
        return Publication(channel, message.encode())
    return Publication(channel, message, Kind.BINARY)
