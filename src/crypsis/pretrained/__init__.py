"""Pretrained models as users bring them: opening, checking, adapters, chat templates, import."""
