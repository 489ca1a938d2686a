//! kexec: the relocation code, and the hypercall through which a privileged domain updates the hypervisor.

use super::Scenario;
use crate::job::{self, Guest};

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "kexec-relocation",
            "the relocation code does on the machine what its simulator says, list by list",
        )
        .options("liveupdate=32M test=reloc")
        .says("test: reloc: .* lists"),
        Scenario::new("kexec-hypercall", "a privileged domain loads the next build by kexec_op and starts the update")
            .options("liveupdate=32M test=kexec-op finish=500")
            .modules(job::images())
            .guests([Guest::new("pulse", "16M").named("control").with("privileged"), Guest::new("memory", "32M")])
            .updates(1),
        Scenario::new(
            "kexec-unprivileged",
            "kexec_op of a domain without privilege is refused with EPERM: the guest checks it",
        )
        .options("liveupdate=32M finish=500")
        .modules(job::images())
        .guests([Guest::new("tables", "16M"), Guest::new("pulse", "16M")])
        .never("took over"),
    ]
}
