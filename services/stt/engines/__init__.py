"""The engines that recognise speech."""
