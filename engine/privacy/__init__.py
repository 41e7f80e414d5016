"""What is held about one person: handed out (`export`) or erased (`erase`)."""
