"""Programs that the demo prints. They are shown as they are, but for their first line."""
