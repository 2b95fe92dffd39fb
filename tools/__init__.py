"""The click commands, one file each: parse, call one library function, show."""
