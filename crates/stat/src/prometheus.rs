//! Counters for Prometheus (its text exposition format 0.0.4).

use crate::{Filter, Sample, Source};
use anyhow::{Result, anyhow};
use tiny_http::{Header, Method, Request, Response, Server};

const TYPE: &str = "Content-Type: text/plain; version=0.0.4";

/// Answers `GET /metrics` at `address` until it is stopped. `ready` is called with
/// the address once it listens.
///
/// # Errors
/// It cannot be listened at.
pub fn serve(
    address: &str,
    source: &mut dyn Source,
    filter: &Filter,
    ready: impl FnOnce(String),
) -> Result<()> {
    let server = Server::http(address).map_err(|e| anyhow!("--prometheus {address}: {e}"))?;
    ready(server.server_addr().to_string());
    for request in server.incoming_requests() {
        answer(request, source, filter);
    }
    Ok(())
}

fn answer(request: Request, source: &mut dyn Source, filter: &Filter) {
    let there = request.url() == "/metrics" && *request.method() == Method::Get;
    let (code, text) = match (there, source.read()) {
        (false, _) => (404, "there is GET /metrics\n".into()),
        // That no machine runs is no error of this service.
        (true, Err(_)) => (200, metrics(&Sample::new())),
        (true, Ok(sample)) => (200, metrics(&sample.filtered(filter))),
    };
    let mut response = Response::from_string(text).with_status_code(code);
    if let Ok(header) = TYPE.parse::<Header>() {
        response.add_header(header);
    }
    // A client that has left does without.
    let _ = request.respond(response);
}

fn metrics(sample: &Sample) -> String {
    let mut text = String::from("# TYPE trapeze_machines gauge\n");
    text += &format!("trapeze_machines {}\n", sample.machines.len());
    for (name, value) in &sample.counters {
        text += &format!("# TYPE trapeze_{name}_total counter\ntrapeze_{name}_total {value}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::tests::pair;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::mpsc;

    struct Fixed;

    impl Source for Fixed {
        fn read(&mut self) -> Result<Sample> {
            Ok(pair().1)
        }
    }

    fn get(address: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_scrape_has_every_counter() {
        let (send, listening) = mpsc::channel();
        std::thread::spawn(move || {
            serve("127.0.0.1:0", &mut Fixed, &Filter::default(), |a| {
                send.send(a).unwrap()
            })
        });
        let address = listening.recv().unwrap();
        let text = get(&address, "/metrics");
        assert!(
            text.contains("200 OK") && text.contains("version=0.0.4"),
            "{text}"
        );
        assert!(text.contains("\ntrapeze_exits_total 30\n"), "{text}");
        assert!(text.contains("\ntrapeze_machines 1\n"), "{text}");
        assert!(get(&address, "/").contains("404"));
    }

    #[test]
    fn a_taken_address_is_an_error() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let why = serve(&address, &mut Fixed, &Filter::default(), |_| ()).unwrap_err();
        assert!(why.to_string().contains(&address), "{why}");
    }
}
