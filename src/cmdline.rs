//! The hypervisor's command line.
