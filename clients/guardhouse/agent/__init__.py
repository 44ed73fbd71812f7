"""The agent of a device: it enrolls the machine, keeps its registration alive and its tunnel as the profile says."""
