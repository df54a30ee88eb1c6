"""Files and players of images, audio and video. No torch model in it, and no torch."""
