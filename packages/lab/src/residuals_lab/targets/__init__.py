"""What a command line names: functions, their arguments, files of numbers; and somebody's code in a child process."""
