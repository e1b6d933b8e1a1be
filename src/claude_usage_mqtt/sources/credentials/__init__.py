"""The logins of Claude Code: where they are kept, what is in them, and noticing that they changed."""
