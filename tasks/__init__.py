"""Celery: the app, its settings, its tasks. A task takes ids, makes one call into the engine, returns a small dict."""
