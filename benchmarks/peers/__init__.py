"""The engines that race, each behind the same few calls."""
