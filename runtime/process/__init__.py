"""The process as a whole: its threads, forks, signals and end, and what it must not leave behind."""
