"""The commands, one file each; `command` in it is what the group finds."""
