//! Event channels as plain data, for a save, and back.
//!
//! A domain comes back by itself, with what can be said of it alone checked; when all are back,
//! [`EventChannels::mismatches`] tells which ends of interdomain channels do not fit (invariant 1 of the module above).
//! What to do about a domain that does not fit is not decided here; [`EventChannels::remove_domain`] leaves the others
//! whole.

use core::fmt;

use super::{Channel, Domain, DomainConfig, EventChannels, NR_PORTS, PortState};
use crate::frame::DomId;
use crate::xen::Errno;
use crate::xen::hypercall::virq;

/// One port in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRecord {
    /// Its number, 1 to 4095.
    pub port: u32,
    /// What it is bound to.
    pub state: PortState,
    /// The vCPU that it notifies.
    pub notify_vcpu: u32,
}

/// Why a domain's ports were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// The domain itself was: see [`EventChannels::add_domain`].
    Domain {
        /// Its number.
        domain: DomId,
        /// Why.
        errno: Errno,
    },
    /// There is no such port.
    Port {
        /// The domain.
        domain: DomId,
        /// The number found.
        port: u32,
    },
    /// A port is there twice.
    PortTwice {
        /// The domain.
        domain: DomId,
        /// The port.
        port: u32,
    },
    /// A port notifies a vCPU that the domain does not have.
    Vcpu {
        /// The domain.
        domain: DomId,
        /// The port.
        port: u32,
        /// The vCPU found.
        vcpu: u32,
    },
    /// A port receives a VIRQ that does not exist.
    Virq {
        /// The domain.
        domain: DomId,
        /// The port.
        port: u32,
        /// The VIRQ found.
        virq: u32,
    },
    /// Two ports receive the same VIRQ.
    VirqTwice {
        /// The domain.
        domain: DomId,
        /// The second port.
        port: u32,
        /// The VIRQ.
        virq: u32,
    },
    /// No memory for the table.
    NoMemory {
        /// The domain.
        domain: DomId,
    },
}

/// An end of an interdomain channel whose other end does not lead back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The domain.
    pub domain: DomId,
    /// Its port.
    pub port: u32,
    /// The domain that it claims to be bound to.
    pub remote: DomId,
    /// The port there.
    pub remote_port: u32,
    /// What is there instead.
    pub found: OtherEnd,
}

/// What is at the other end of a channel that does not lead back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherEnd {
    /// No such domain.
    NoDomain,
    /// A port that is not in use.
    NotInUse,
    /// A port bound to something else.
    Bound(PortState),
    /// The port itself.
    Itself,
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Domain { domain, errno } => write!(f, "{domain} cannot have event channels: {errno}"),
            Self::Port { domain, port } => {
                write!(f, "{domain} has port {port}, ports are 1 to {}", NR_PORTS - 1)
            }
            Self::PortTwice { domain, port } => write!(f, "{domain} has port {port} twice"),
            Self::Vcpu { domain, port, vcpu } => {
                write!(f, "port {port} of {domain} notifies vcpu {vcpu}, which does not exist")
            }
            Self::Virq { domain, port, virq } => {
                write!(f, "port {port} of {domain} receives virq {virq}, which does not exist")
            }
            Self::VirqTwice { domain, port, virq } => {
                write!(f, "port {port} of {domain} receives virq {virq}, which another port does too")
            }
            Self::NoMemory { domain } => write!(f, "no memory for the ports of {domain}"),
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, port, remote, remote_port, found } = *self;
        write!(f, "port {port} of {domain} is bound to port {remote_port} of {remote}, ")?;
        match found {
            OtherEnd::NoDomain => f.write_str("which does not exist"),
            OtherEnd::NotInUse => f.write_str("which is not in use"),
            OtherEnd::Bound(state) => write!(f, "which is {state:?}"),
            OtherEnd::Itself => f.write_str("which is itself"),
        }
    }
}

impl EventChannels {
    /// The domains, ascending.
    pub fn domains(&self) -> impl Iterator<Item = DomId> {
        self.domains.keys().copied()
    }

    /// The ports that a domain has in use, ascending; none for a domain that does not exist.
    pub fn ports(&self, domain: DomId) -> impl Iterator<Item = PortRecord> {
        let ports = self.domains.get(&domain).map_or(&[][..], |d| &d.ports);
        ports.iter().zip(0..).filter_map(|(channel, port)| {
            channel.map(|Channel { state, notify_vcpu }| PortRecord { port, state, notify_vcpu })
        })
    }

    /// Adds a domain with its ports, in any order. After an error it is not there at all.
    ///
    /// Pending bits are in the domain's memory and not touched.
    pub fn restore_domain(
        &mut self,
        id: DomId,
        config: DomainConfig,
        ports: impl IntoIterator<Item = PortRecord>,
    ) -> Result<(), RestoreError> {
        self.add_domain(id, config).map_err(|errno| RestoreError::Domain { domain: id, errno })?;
        let result = match self.domains.get_mut(&id) {
            Some(domain) => ports.into_iter().try_for_each(|record| domain.restore_port(id, record)),
            None => Ok(()),
        };
        if result.is_err() {
            // Not `remove_domain`: nobody else knows of these ports yet.
            self.domains.remove(&id);
        }
        result
    }

    /// Every end of an interdomain channel that its other end does not lead back to.
    pub fn mismatches(&self) -> impl Iterator<Item = Mismatch> {
        self.domains().flat_map(move |domain| {
            self.ports(domain).filter_map(move |record| {
                let PortState::Interdomain { remote, remote_port } = record.state else {
                    return None;
                };
                let back = PortState::Interdomain { remote: domain, remote_port: record.port };
                let found = match self.domains.get(&remote).map(|d| d.channel(remote_port)) {
                    _ if (remote, remote_port) == (domain, record.port) => OtherEnd::Itself,
                    None => OtherEnd::NoDomain,
                    Some(Err(_)) => OtherEnd::NotInUse,
                    Some(Ok(channel)) if channel.state == back => return None,
                    Some(Ok(channel)) => OtherEnd::Bound(channel.state),
                };
                Some(Mismatch { domain, port: record.port, remote, remote_port, found })
            })
        })
    }
}

impl Domain {
    fn restore_port(&mut self, domain: DomId, record: PortRecord) -> Result<(), RestoreError> {
        let PortRecord { port, state, notify_vcpu } = record;
        if port == 0 || port >= NR_PORTS {
            return Err(RestoreError::Port { domain, port });
        }
        if self.channel(port).is_ok() {
            return Err(RestoreError::PortTwice { domain, port });
        }
        self.check_vcpu(notify_vcpu).map_err(|_| RestoreError::Vcpu { domain, port, vcpu: notify_vcpu })?;
        if let PortState::Virq { virq } = state {
            if virq >= virq::COUNT {
                return Err(RestoreError::Virq { domain, port, virq });
            }
            let slot = self.virq_slot(virq, notify_vcpu);
            if *slot != 0 {
                return Err(RestoreError::VirqTwice { domain, port, virq });
            }
            *slot = port as u16;
        }
        self.make_room(port).map_err(|_| RestoreError::NoMemory { domain })?;
        self.occupy(port, Channel { state, notify_vcpu });
        Ok(())
    }
}
