"""What the package needs of the machine it runs on: devices, processes, files, a progress bar."""
