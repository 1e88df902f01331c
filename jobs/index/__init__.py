"""The index of ended jobs: lists of ten thousand jobs with a few dozen requests. Advisory, and made again when lost."""
