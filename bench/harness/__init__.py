"""The benchmark's driver: starts what is compared, loads it with fio, and reports."""
