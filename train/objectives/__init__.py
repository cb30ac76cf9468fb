"""What generator and critic are trained by: losses, their networks, and the noise that they see."""
