"""Reliable request-reply: calls between peers, with outcomes that a caller can trust."""
