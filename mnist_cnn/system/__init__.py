"""What the package needs from the machine it runs on: devices, processes, files, a progress bar."""
