//! `-netdev user`.

use super::{Word, unknown};
use crate::system::keyval::on_off;
use machine::NetdevKind;
use net::{GuestForward, HostForward, Transport, UserConfig};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// A property.
struct Property {
    name: &'static str,
    apply: fn(&mut UserConfig, &str) -> Result<(), String>,
}

const fn property(
    name: &'static str,
    apply: fn(&mut UserConfig, &str) -> Result<(), String>,
) -> Property {
    Property { name, apply }
}

/// Every property that is supported.
const PROPERTIES: [Property; 17] = [
    property("ipv4", |c, v| on_off(v).map(|on| c.ipv4 = on)),
    property("ipv6", |c, v| on_off(v).map(|on| c.ipv6 = on)),
    property("net", network),
    property("host", |c, v| value_of(v).map(|ip| c.host = ip)),
    property("dns", |c, v| value_of(v).map(|ip| c.dns = ip)),
    property("dhcpstart", |c, v| value_of(v).map(|ip| c.dhcp_start = ip)),
    property("ipv6-net", network6),
    property("ipv6-prefix", |c, v| {
        value_of(v).map(|ip| c.ipv6_prefix = ip)
    }),
    property("ipv6-prefixlen", |c, v| {
        value_of(v).map(|n| c.ipv6_prefix_len = n)
    }),
    property("ipv6-host", |c, v| value_of(v).map(|ip| c.ipv6_host = ip)),
    property("ipv6-dns", |c, v| value_of(v).map(|ip| c.ipv6_dns = ip)),
    property("hostname", |c, v| {
        c.hostname = Some(v.into());
        Ok(())
    }),
    property("domainname", |c, v| {
        c.domain = Some(v.into());
        Ok(())
    }),
    property("dnssearch", |c, v| {
        c.dns_search.push(v.into());
        Ok(())
    }),
    property("restrict", |c, v| on_off(v).map(|on| c.restrict = on)),
    property("hostfwd", |c, v| {
        host_forward(v).map(|f| c.host_forwards.push(f))
    }),
    property("guestfwd", |c, v| {
        guest_forward(v).map(|f| c.guest_forwards.push(f))
    }),
];

/// QEMU's others.
const REFUSED: [&str; 5] = ["tftp", "tftp-server-name", "bootfile", "smb", "smbserver"];

pub(super) fn parse(words: Vec<Word>) -> Result<NetdevKind, String> {
    let mut config = UserConfig::default();
    let mut named = Vec::new();
    for (key, value) in words {
        let value = value.ok_or_else(|| format!("{key}= needs a value"))?;
        if REFUSED.contains(&&*key) {
            return Err(format!("{key}= is not supported"));
        }
        let Some(found) = PROPERTIES.iter().find(|p| p.name == key) else {
            return Err(unknown(&key, &PROPERTIES.each_ref().map(|p| p.name)));
        };
        (found.apply)(&mut config, &value).map_err(|why| format!("{key}={value}: {why}"))?;
        named.push(found.name);
    }
    follow(&mut config, &named);
    Ok(NetdevKind::User(config))
}

/// Of another network, addresses that were not named are as in QEMU's: hosts 2, 3 and
/// from 15 on.
fn follow(config: &mut UserConfig, named: &[&str]) {
    if !named.contains(&"net") {
        return;
    }
    let start = u32::from(config.net);
    for (key, at, n) in [
        ("host", &mut config.host, 2),
        ("dns", &mut config.dns, 3),
        ("dhcpstart", &mut config.dhcp_start, 15),
    ] {
        if !named.contains(&key) {
            *at = Ipv4Addr::from(start.wrapping_add(n));
        }
    }
}

fn value_of<T: FromStr>(value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|_| format!("'{value}' is not what belongs there"))
}

/// `ADDRESS[/BITS]` or `ADDRESS/MASK`; without bits, as many as its class has.
fn network(config: &mut UserConfig, value: &str) -> Result<(), String> {
    let (address, bits) = match value.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (value, None),
    };
    let address: Ipv4Addr = value_of(address)?;
    config.prefix = match bits {
        None => match address.octets()[0] {
            0..=127 => 8,
            128..=191 => 16,
            _ => 24,
        },
        Some(bits) if bits.contains('.') => {
            let mask = u32::from(value_of::<Ipv4Addr>(bits)?);
            if mask.leading_ones() + mask.trailing_zeros() != u32::BITS {
                return Err(format!("'{bits}' is no mask"));
            }
            mask.leading_ones() as u8
        }
        Some(bits) => value_of(bits)?,
    };
    let mask = u32::MAX.checked_shl(32 - u32::from(config.prefix.min(32)));
    config.net = Ipv4Addr::from(u32::from(address) & mask.unwrap_or(0));
    Ok(())
}

fn network6(config: &mut UserConfig, value: &str) -> Result<(), String> {
    let (address, bits) = value.split_once('/').unwrap_or((value, "64"));
    config.ipv6_prefix = value_of::<Ipv6Addr>(address)?;
    config.ipv6_prefix_len = value_of(bits)?;
    Ok(())
}

/// `ADDRESS:PORT`, an IPv6 address in brackets; the address may be missing.
fn socket(text: &str) -> Result<(Option<IpAddr>, u16), String> {
    let (address, port) = text
        .rsplit_once(':')
        .ok_or_else(|| format!("'{text}' is not ADDRESS:PORT"))?;
    let inside = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
    let address = match inside.unwrap_or(address) {
        "" => None,
        address => Some(value_of(address)?),
    };
    Ok((address, value_of(port)?))
}

/// `[tcp|udp]:[ADDRESS]:PORT-[ADDRESS]:PORT`.
pub(in crate::system) fn host_forward(value: &str) -> Result<HostForward, String> {
    const SHAPE: &str = "takes [tcp|udp]:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT";
    let (transport, rest) = value.split_once(':').ok_or(SHAPE)?;
    let transport = match transport {
        "" | "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        _ => return Err(SHAPE.into()),
    };
    let (host, guest) = rest.split_once('-').ok_or(SHAPE)?;
    let (address, port) = socket(host)?;
    let (guest, guest_port) = socket(guest)?;
    let any = match guest {
        Some(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    Ok(HostForward {
        transport,
        host: SocketAddr::new(address.unwrap_or(any), port),
        guest,
        guest_port,
    })
}

/// `[tcp]:ADDRESS:PORT-tcp:ADDRESS:PORT`.
fn guest_forward(value: &str) -> Result<GuestForward, String> {
    const SHAPE: &str = "takes [tcp]:SERVER:PORT-tcp:ADDRESS:PORT; commands are not supported";
    let (server, target) = value.split_once('-').ok_or(SHAPE)?;
    let server = server.strip_prefix("tcp").unwrap_or(server);
    let server = server.strip_prefix(':').ok_or(SHAPE)?;
    let target = target.strip_prefix("tcp:").ok_or(SHAPE)?;
    let whole = |text: &str| -> Result<SocketAddr, String> {
        let (address, port) = socket(text)?;
        let address = address.ok_or_else(|| format!("'{text}' lacks an address"))?;
        Ok(SocketAddr::new(address, port))
    };
    Ok(GuestForward {
        server: whole(server)?,
        target: whole(target)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::keyval;

    fn user(text: &str) -> Result<UserConfig, String> {
        match parse(keyval::parse(text))? {
            NetdevKind::User(config) => Ok(config),
            kind => Err(format!("{kind:?}")),
        }
    }

    #[test]
    fn forwards_name_both_ends() {
        let config = user("hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp::53-10.0.2.20:5353");
        let forwards = config.expect("forwards").host_forwards;
        assert_eq!(forwards[0].host, "127.0.0.1:2222".parse().expect("it"));
        assert_eq!((forwards[0].guest, forwards[0].guest_port), (None, 22));
        assert_eq!(forwards[1].transport, Transport::Udp);
        assert_eq!(forwards[1].host, "0.0.0.0:53".parse().expect("it"));
        assert_eq!(forwards[1].guest, Some("10.0.2.20".parse().expect("it")));
        let config = user("hostfwd=tcp:[::1]:80-[fec0::15]:80").expect("IPv6");
        assert_eq!(
            config.host_forwards[0].host,
            "[::1]:80".parse().expect("it")
        );
        let config = user("guestfwd=tcp:10.0.2.100:80-tcp:127.0.0.1:8080").expect("one");
        assert_eq!(
            config.guest_forwards[0].target,
            "127.0.0.1:8080".parse().expect("it")
        );
        for wrong in [
            "hostfwd=icmp::1-:2",
            "hostfwd=tcp::99999-:22",
            "hostfwd=tcp:2222:22",
            "hostfwd=tcp:localhost:1-:2",
            "guestfwd=tcp:10.0.2.100:80-cmd:cat",
        ] {
            let why = user(wrong).expect_err(wrong);
            assert!(why.starts_with(wrong), "{why}");
        }
    }

    #[test]
    fn addresses_follow_the_network() {
        let config = user("net=192.168.7.0/24,dns=192.168.7.9").expect("a network");
        assert_eq!(config.host, Ipv4Addr::new(192, 168, 7, 2));
        assert_eq!(config.dns, Ipv4Addr::new(192, 168, 7, 9));
        assert_eq!(config.dhcp_start, Ipv4Addr::new(192, 168, 7, 15));
        let by_class = user("net=172.20.0.0").expect("a network");
        assert_eq!((by_class.prefix, by_class.net.octets()[0]), (16, 172));
        let masked = user("net=10.1.2.3/255.255.254.0").expect("a network");
        assert_eq!(
            (masked.prefix, masked.net),
            (23, Ipv4Addr::new(10, 1, 2, 0))
        );
        assert!(user("net=10.1.2.3/255.0.255.0").is_err());
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (text, named) in [
            ("tftp=/srv", "tftp= is not supported"),
            ("hostfw=tcp::1-:2", "'hostfwd'"),
            ("restrict=perhaps", "neither on nor off"),
            ("dns", "dns= needs a value"),
        ] {
            let why = user(text).expect_err(text);
            assert!(why.contains(named), "{why}");
        }
    }
}
