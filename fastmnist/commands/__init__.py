"""The larger commands, a file each, and the options that commands share."""
