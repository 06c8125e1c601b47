//! The queue of statistics (5.5.6.3): the driver lends a buffer with its
//! numbers, and fills it again when it gets it back.

use super::host::{Host, RECORD, STATISTICS};
use crate::chain::Chain;
use crate::queue::{ActiveQueue, Broken};

/// The queue's thread.
pub(super) fn serve(queue: ActiveQueue, host: &Host) {
    let mut held = None;
    let queue = queue.work(|queue| turn(queue, host, &mut held));
    // What is saved has no request in flight.
    if let (Some(mut queue), Some(head), true) = (queue, held, host.must_release_buffer()) {
        // It stops; whom else to tell?
        let _ = queue.complete(head, 0);
    }
}

fn turn(queue: &mut ActiveQueue, host: &Host, held: &mut Option<u16>) -> Result<(), Broken> {
    if let Some(head) = *held
        && host.take_poll()
    {
        queue.complete(head, 0)?;
        *held = None;
    }
    while held.is_none() {
        let memory = queue.memory.clone();
        match queue.pop(&memory)? {
            Some(chain) => {
                *held = Some(chain.head);
                read(chain, host);
            }
            None if !queue.listen()? => break,
            None => {}
        }
    }
    Ok(())
}

/// Takes the numbers: a tag of 2 bytes and a value of 8 each. Tags that are
/// not known are passed over (5.5.6.3.2), as is what would be more than all.
fn read(mut chain: Chain<'_>, host: &Host) {
    let mut bytes = [0; RECORD * 2 * STATISTICS.len()];
    let len = chain.take(&mut bytes);
    host.set_statistics(&bytes[..len]);
}
