//! Numbered packets at a steady rate between two namespaces, and the count of what arrived.

use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use super::sh::{in_ns, must};

/// What became of a flow. `gap` is the longest time without a packet, and `gap_at` when it began (since the start).
#[derive(Clone, Copy, Debug, Default)]
pub struct Loss {
    pub sent: u64,
    pub received: u64,
    pub lost: u64,
    pub duplicates: u64,
    pub gap: Duration,
    pub gap_at: Duration,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, received, lost, .. } = self;
        let (gap, at) = (self.gap.as_millis(), self.gap_at.as_secs_f64());
        write!(f, "sent {sent}, received {received}, lost {lost}, longest gap {gap} ms at {at:.1} s")
    }
}

/// A running flow. Both ends share one clock; a packet counts as lost when it has not come and for two seconds nothing has, after the last was sent.
pub struct Flow {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: Option<JoinHandle<()>>,
    receiver: Option<JoinHandle<Loss>>,
}

impl Flow {
    /// From a socket in namespace `from` (bound to `src`, if given) to one at `dst` in `to`, `rate` packets a second.
    pub fn start(from: &str, src: Option<IpAddr>, to: &str, dst: SocketAddr, rate: u32) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let socket = bind(to, dst);
        must("timeout", socket.set_read_timeout(Some(Duration::from_millis(100))));
        // The default holds one second of packets, and a busy machine may stand still for longer.
        must("receive buffer", set_socket_recv_buffer_size_force(&socket, 8 << 20));
        let start = Instant::now();
        let receiver = {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            thread::spawn(move || receive(&socket, start, &stop, &sent))
        };
        let any: IpAddr = if dst.is_ipv4() { [0, 0, 0, 0].into() } else { [0; 16].into() };
        let socket = bind(from, (src.unwrap_or(any), 0).into());
        let sender = {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            thread::spawn(move || {
                let mut next = 0;
                while !stop.load(Ordering::Relaxed) {
                    // All that are due by now: the kernel's clock may be coarser than the rate.
                    let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as u64;
                    while next < due {
                        // No route, no neighbour: a packet that is lost before it is under way.
                        let _ = socket.send_to(&next.to_be_bytes(), dst);
                        next += 1;
                        sent.store(next, Ordering::Relaxed);
                    }
                    thread::sleep(Duration::from_secs_f64(1.0 / f64::from(rate)));
                }
            })
        };
        Self { stop, sent, sender: Some(sender), receiver: Some(receiver) }
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub fn stop(mut self) -> Loss {
        self.end()
    }

    fn end(&mut self) -> Loss {
        self.stop.store(true, Ordering::Relaxed);
        self.sender.take().map(JoinHandle::join);
        self.receiver.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.end();
    }
}

fn bind(ns: &str, address: SocketAddr) -> UdpSocket {
    must(&format!("UDP socket on {address} in {ns}"), in_ns(ns, || UdpSocket::bind(address)))
}

fn receive(socket: &UdpSocket, start: Instant, stop: &AtomicBool, sent: &AtomicU64) -> Loss {
    let (mut seen, mut loss) = (Vec::<bool>::new(), Loss::default());
    let mut last = Duration::ZERO;
    // Turns, not time: a busy machine may stand still.
    let (mut ending, mut idle) = (false, 0);
    let mut buffer = [0; 64];
    loop {
        idle += 1;
        if let Ok((8, _)) = socket.recv_from(&mut buffer) {
            idle = 0;
            let mut number = [0; 8];
            number.copy_from_slice(&buffer[..8]);
            let number = u64::from_be_bytes(number) as usize;
            let now = start.elapsed();
            if now - last > loss.gap {
                (loss.gap, loss.gap_at) = (now - last, last);
            }
            last = now;
            if seen.len() <= number {
                seen.resize(number + 1, false);
            }
            if std::mem::replace(&mut seen[number], true) {
                loss.duplicates += 1;
            } else {
                loss.received += 1;
            }
        }
        loss.sent = sent.load(Ordering::Relaxed);
        if stop.load(Ordering::Relaxed) {
            if !std::mem::replace(&mut ending, true) {
                idle = 0;
            }
            if idle >= 20 || (loss.received >= loss.sent && idle > 0) {
                loss.lost = loss.sent - loss.received.min(loss.sent);
                // The end of a flow that never came back is a gap too.
                let tail = start.elapsed().saturating_sub(last);
                if loss.lost > 0 && tail > loss.gap.max(Duration::from_millis(2600)) {
                    (loss.gap, loss.gap_at) = (tail, last);
                }
                return loss;
            }
        }
    }
}
