"""What a process brings along: threads, forks, signals, its end, and what it must not leave behind."""
