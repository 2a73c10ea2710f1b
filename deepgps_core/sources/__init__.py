"""Sources of proteins and images; each ends in the same dataset folder."""
