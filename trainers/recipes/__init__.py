"""One function per published row, each returning a whole `Config`."""
