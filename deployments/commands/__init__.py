"""What the command ``delivery`` does, a module a subject."""
