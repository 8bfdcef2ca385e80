"""What the end-to-end tests share: real daemons, real devices, and certain clean-up."""
