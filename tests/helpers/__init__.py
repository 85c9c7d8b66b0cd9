"""What several tests share. Nothing here imports a test module."""
