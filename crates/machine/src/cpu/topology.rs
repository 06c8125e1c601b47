//! Sockets, cores and threads, and the APIC ids they give: a bit field for
//! each level, threads lowest (SDM vol 3, 9.9.1).

/// The processors of a machine; every product of levels is a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Packages.
    pub sockets: u32,
    /// Cores of a package.
    pub cores: u32,
    /// Threads of a core.
    pub threads: u32,
}

/// `-smp` as given: absent members are computed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Smp {
    /// Processors at start.
    pub cpus: Option<u32>,
    /// Packages.
    pub sockets: Option<u32>,
    /// Cores of a package.
    pub cores: Option<u32>,
    /// Threads of a core.
    pub threads: Option<u32>,
    /// Processors there may ever be.
    pub maxcpus: Option<u32>,
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            sockets: 1,
            cores: 1,
            threads: 1,
        }
    }
}

/// Bits that number `n` things.
fn bits(n: u32) -> u32 {
    u32::BITS - n.saturating_sub(1).leading_zeros()
}

/// Where a vCPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuPlace {
    /// Number of its socket.
    pub socket: u32,
    /// Of its core in the socket.
    pub core: u32,
    /// Of its thread in the core.
    pub thread: u32,
}

impl Topology {
    /// Where the vCPU with this index is.
    pub fn place(&self, index: u32) -> CpuPlace {
        let threads = self.threads.max(1);
        CpuPlace {
            socket: index / self.per_socket().max(1),
            core: index % self.per_socket().max(1) / threads,
            thread: index % threads,
        }
    }

    /// One socket.
    pub fn of_cores(cores: u32) -> Self {
        Self {
            cores,
            ..Self::default()
        }
    }
    /// Number of processors; saturates.
    pub fn vcpus(&self) -> u32 {
        let cores = self.sockets.saturating_mul(self.cores);
        cores.saturating_mul(self.threads)
    }
    /// Processors of a package.
    pub fn per_socket(&self) -> u32 {
        self.cores.saturating_mul(self.threads)
    }
    /// Bits of an APIC id below the core number.
    pub fn thread_bits(&self) -> u32 {
        bits(self.threads)
    }
    /// Bits of an APIC id below the package number.
    pub fn socket_shift(&self) -> u32 {
        self.thread_bits() + bits(self.cores)
    }
    /// APIC id of processor `index`.
    pub fn apic_id(&self, index: u32) -> u32 {
        let thread = index % self.threads;
        let core = index / self.threads % self.cores;
        let socket = index / self.per_socket();
        socket << self.socket_shift() | core << self.thread_bits() | thread
    }
    /// APIC ids in order of the processors.
    pub fn apic_ids(&self) -> impl Iterator<Item = u32> + use<> {
        let this = *self;
        (0..self.vcpus()).map(move |i| this.apic_id(i))
    }
}

impl Smp {
    /// Computes what was left out as QEMU does: cores rather than sockets.
    pub fn topology(&self) -> Result<Topology, String> {
        let threads = self.threads.unwrap_or(1);
        let total = self.maxcpus.or(self.cpus);
        let (sockets, cores) = match (self.sockets, self.cores) {
            (Some(s), Some(c)) => (s, c),
            (Some(s), None) => (s, total.map_or(1, |n| n / (s * threads).max(1))),
            (None, Some(c)) => (total.map_or(1, |n| n / (c * threads).max(1)), c),
            (None, None) => (1, total.map_or(1, |n| n / threads.max(1))),
        };
        let topology = Topology {
            sockets,
            cores,
            threads: if total.is_some() && self.threads.is_none() && self.fixes_all_but_threads() {
                total.unwrap_or(1) / (sockets * cores).max(1)
            } else {
                threads
            },
        };
        let product = topology.vcpus();
        let maxcpus = self.maxcpus.unwrap_or(product);
        let cpus = self.cpus.unwrap_or(maxcpus);
        if product != total.unwrap_or(product) {
            return Err(format!(
                "the product of sockets ({}), cores ({}) and threads ({}) is {product}, \
                 not the number of cpus ({})",
                topology.sockets,
                topology.cores,
                topology.threads,
                total.unwrap_or(product)
            ));
        }
        if cpus == 0 || cpus > maxcpus {
            return Err(format!(
                "maxcpus={maxcpus} is how many CPUs there may ever be: cpus={cpus} must be \
                 1 to {maxcpus}"
            ));
        }
        Ok(topology)
    }

    /// How many processors of the topology, the last ones, are not there at
    /// start.
    pub fn absent(&self) -> u32 {
        match (self.cpus, self.maxcpus) {
            (Some(cpus), Some(maxcpus)) => maxcpus.saturating_sub(cpus),
            _ => 0,
        }
    }

    fn fixes_all_but_threads(&self) -> bool {
        self.sockets.is_some() && self.cores.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn smp(cpus: Option<u32>, levels: [Option<u32>; 3]) -> Result<(u32, u32, u32), String> {
        let [sockets, cores, threads] = levels;
        let smp = Smp {
            cpus,
            sockets,
            cores,
            threads,
            maxcpus: None,
        };
        smp.topology().map(|t| (t.sockets, t.cores, t.threads))
    }

    #[test]
    fn absent_levels_follow_qemu() {
        // `qemu-system-x86_64 -smp ...` and `info hotpluggable-cpus`.
        assert_eq!(smp(None, [None; 3]), Ok((1, 1, 1)));
        assert_eq!(smp(Some(8), [None; 3]), Ok((1, 8, 1)));
        assert_eq!(smp(Some(8), [Some(2), None, None]), Ok((2, 4, 1)));
        assert_eq!(smp(Some(8), [None, Some(2), None]), Ok((4, 2, 1)));
        assert_eq!(smp(Some(8), [None, None, Some(2)]), Ok((1, 4, 2)));
        assert_eq!(smp(Some(8), [Some(2), Some(2), None]), Ok((2, 2, 2)));
        assert_eq!(smp(None, [Some(2), Some(3), Some(2)]), Ok((2, 3, 2)));
        assert!(smp(Some(6), [Some(2), Some(2), None]).is_err());
        assert!(smp(Some(8), [Some(3), None, None]).is_err());
        assert!(smp(Some(3), [Some(4), None, None]).is_err());
    }

    #[test]
    fn those_that_may_come_belong_to_the_topology() {
        let smp = |cpus, maxcpus| Smp {
            cpus: Some(cpus),
            maxcpus: Some(maxcpus),
            ..Smp::default()
        };
        let two_of_four = smp(2, 4);
        assert_eq!(two_of_four.topology(), Ok(Topology::of_cores(4)));
        assert_eq!((two_of_four.absent(), smp(4, 4).absent()), (2, 0));
        for (cpus, maxcpus) in [(5, 4), (0, 4)] {
            let why = smp(cpus, maxcpus).topology().unwrap_err();
            assert!(why.contains("maxcpus=4"), "{why}");
        }
    }

    #[test]
    fn ids_pack_levels_into_bit_fields() {
        let t = Topology {
            sockets: 2,
            cores: 3,
            threads: 2,
        };
        let ids: Vec<u32> = t.apic_ids().collect();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]);
        assert_eq!((t.thread_bits(), t.socket_shift()), (1, 3));
    }

    #[test]
    fn huge_numbers_do_not_overflow() {
        let max = Some(u32::MAX);
        assert!(smp(Some(4), [max, max, max]).is_err());
        assert_eq!(
            Topology {
                sockets: u32::MAX,
                cores: 2,
                threads: 2
            }
            .vcpus(),
            u32::MAX
        );
    }
}
