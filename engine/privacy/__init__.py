"""What is held about one person: found and shown (`finding`, `profile`, `week`, `timeline`), handed out (`export`) or
erased (`erase`)."""
