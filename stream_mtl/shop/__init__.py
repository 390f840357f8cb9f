"""The shop's memory: catalogue, users, queries, faded counts and links between items."""

from stream_mtl.shop.shop import PendingText, Shop

__all__ = ["PendingText", "Shop"]
