"""Who may ask what: API keys, and how much of it a second."""
