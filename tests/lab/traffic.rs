//! Numbered packets at a constant rate between two namespaces, and the count of those that arrived.

use std::fmt;
use std::io::{ErrorKind, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, MultiHeaders, recvmmsg, setsockopt};
use nix::sys::time::TimeSpec;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use super::sh::{in_ns, must, raise_priority};

/// The result of a flow. `gap` is the longest time without a packet, and `gap_at` when it began (since the start);
/// `lost_at` is when the first and the last of those that were lost were due.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loss {
    pub sent: u64,
    pub received: u64,
    pub lost: u64,
    pub duplicates: u64,
    pub gap: Duration,
    pub gap_at: Duration,
    pub lost_at: Option<(SystemTime, SystemTime)>,
    /// How many of the lost packets the sender's kernel refused, and why it refused the last one.
    pub refused: u64,
    pub refusal: Option<ErrorKind>,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, received, lost, .. } = self;
        let (gap, at) = (self.gap.as_millis(), self.gap_at.as_secs_f64());
        write!(f, "sent {sent}, received {received}, lost {lost}, longest gap {gap} ms at {at:.1} s")?;
        if let Some((from, to)) = self.lost_at {
            write!(f, ", lost between {} and {}", clock(from), clock(to))?;
        }
        self.refusal.map_or(Ok(()), |why| write!(f, ", {} refused where it was sent: {why}", self.refused))
    }
}

/// A running flow. A packet counts as lost if it has not arrived when, after the last was sent, none arrives for two
/// seconds.
pub struct Flow {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    result: Receiver<Loss>,
}

impl Flow {
    /// From a socket in namespace `from` (bound to `src`, if given) to one at `dst` in `to`, `rate` packets a second.
    pub fn start(from: &str, src: Option<IpAddr>, to: &str, dst: SocketAddr, rate: u32) -> Self {
        let receiver = bind(to, dst);
        // The default holds one second of packets, and a busy machine may stand still for longer.
        must("receive buffer", set_socket_recv_buffer_size_force(&receiver, 8 << 20));
        let any: IpAddr = if dst.is_ipv4() { [0, 0, 0, 0].into() } else { [0; 16].into() };
        let sender = bind(from, (src.unwrap_or(any), 0).into());
        for socket in [&sender, &receiver] {
            must("socket", socket.set_nonblocking(true));
        }
        must("timestamps", setsockopt(&receiver, ReceiveTimestampns, &true));
        let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (done, result) = channel();
        let flow = FlowState {
            sender,
            receiver,
            dst,
            rate: f64::from(rate),
            start: Instant::now(),
            began: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            stop: Arc::clone(&stop),
            sent: Arc::clone(&sent),
            done,
            seen: vec![],
            loss: Loss::default(),
            last: Duration::ZERO,
            idle: None,
        };
        must("the flows' thread", FLOWS.send(flow));
        Self { stop, sent, result }
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub fn stop(self) -> Loss {
        self.stop.store(true, Ordering::Relaxed);
        self.result.recv().unwrap_or_default()
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Until its sockets are closed; after stop() there is nothing to wait for.
        let _ = self.result.recv();
    }
}

/// How often packets are sent.
const TURN: Duration = Duration::from_millis(4);

/// Packets are received every so many turns; the kernel has recorded their arrival times.
const TAKE: u32 = 5;

/// A flow ends after so many turns without a packet, after the last was sent. Turns, not time: a busy machine may stand
/// still.
const END: u32 = 500;

/// How many packets are received at once.
const BATCH: usize = 16;

/// One thread serves all flows: one thread for each end of each flow would cost more than the packets do.
static FLOWS: LazyLock<Sender<FlowState>> = LazyLock::new(|| {
    let (sender, new) = channel::<FlowState>();
    thread::spawn(move || {
        // On one processor other processes may run in the middle of a call, and a packet that already has its route is
        // dropped if that route is deleted then (`dst_dev_put`, net/core/dst.c): this happens on a busy machine, and
        // never to packets from another machine.
        raise_priority();
        let mut flows: Vec<FlowState> = vec![];
        for turn in 0u32.. {
            if flows.is_empty() {
                let Ok(flow) = new.recv() else { return };
                flows.push(flow);
            }
            flows.extend(new.try_iter());
            let now = Instant::now();
            flows.iter_mut().for_each(|flow| flow.send(now));
            if turn.is_multiple_of(TAKE) {
                flows.retain_mut(|flow| {
                    let continues = flow.receive_arrived();
                    if !continues {
                        let _ = flow.done.send(flow.loss);
                    }
                    continues
                });
            }
            thread::sleep(TURN);
        }
    });
    sender
});

struct FlowState {
    sender: UdpSocket,
    receiver: UdpSocket,
    dst: SocketAddr,
    rate: f64,
    start: Instant,
    /// The same as `start`, since 1970.
    began: Duration,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    done: Sender<Loss>,
    seen: Vec<bool>,
    loss: Loss,
    /// When the last packet arrived, since the start.
    last: Duration,
    /// Turns without a packet since it was stopped.
    idle: Option<u32>,
}

impl FlowState {
    /// Sends what is due.
    fn send(&mut self, now: Instant) {
        if self.stop.load(Ordering::Relaxed) {
            let idle = self.idle.get_or_insert(0);
            *idle += 1;
            return;
        }
        // All that are due by now: the kernel's clock may be coarser than the rate.
        let due = ((now - self.start).as_secs_f64() * self.rate) as u64;
        while self.loss.sent < due {
            match self.sender.send_to(&self.loss.sent.to_be_bytes(), self.dst) {
                // A socket that blocks would wait, too.
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                // No route, no neighbour: the packet is lost before it is sent.
                Err(e) => {
                    self.loss.refused += 1;
                    self.loss.refusal = Some(e.kind());
                }
                Ok(_) => {}
            }
            self.loss.sent += 1;
        }
        self.sent.store(self.loss.sent, Ordering::Relaxed);
    }

    /// Receives the packets that have arrived. Returns whether the flow continues.
    fn receive_arrived(&mut self) -> bool {
        loop {
            let packets = must("packets", receive(&self.receiver));
            for (number, at) in &packets {
                self.count(*number as usize, at.saturating_sub(self.began));
            }
            if packets.len() < BATCH {
                break;
            }
        }
        let over = self.idle.is_some_and(|idle| idle >= END || self.loss.received >= self.loss.sent);
        if over {
            self.add_up();
        }
        !over
    }

    fn count(&mut self, number: usize, at: Duration) {
        self.idle = self.idle.map(|_| 0);
        let gap = at.saturating_sub(self.last);
        if gap > self.loss.gap {
            (self.loss.gap, self.loss.gap_at) = (gap, self.last);
        }
        self.last = at;
        if self.seen.len() <= number {
            self.seen.resize(number + 1, false);
        }
        if std::mem::replace(&mut self.seen[number], true) {
            self.loss.duplicates += 1;
        } else {
            self.loss.received += 1;
        }
    }

    fn add_up(&mut self) {
        let loss = &mut self.loss;
        loss.lost = loss.sent - loss.received.min(loss.sent);
        self.seen.resize(loss.sent as usize, false);
        let due = |number: usize| {
            SystemTime::UNIX_EPOCH + self.began + Duration::from_secs_f64(number as f64 / self.rate)
        };
        let first = self.seen.iter().position(|seen| !seen);
        loss.lost_at = first.zip(self.seen.iter().rposition(|seen| !seen)).map(|(a, b)| (due(a), due(b)));
        // A time without packets at the end of the flow is a gap, too.
        let tail = self.start.elapsed().saturating_sub(self.last);
        if loss.lost > 0 && tail > loss.gap.max(TURN * END + Duration::from_millis(600)) {
            (loss.gap, loss.gap_at) = (tail, self.last);
        }
    }
}

/// The numbers of the packets that have arrived, a batch at most, and the arrival time of each (since 1970).
fn receive(socket: &UdpSocket) -> nix::Result<Vec<(u64, Duration)>> {
    let mut numbers = [[0; 8]; BATCH];
    let mut times = Vec::with_capacity(BATCH);
    {
        let mut slices: Vec<_> = numbers.iter_mut().map(|number| [IoSliceMut::new(number)]).collect();
        let mut headers = MultiHeaders::<()>::preallocate(BATCH, Some(cmsg_space!(TimeSpec)));
        let flags = MsgFlags::MSG_DONTWAIT;
        let messages = match recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), flags, None) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(vec![]),
            other => other?,
        };
        for message in messages {
            let time = message.cmsgs()?.find_map(|item| match item {
                ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
                _ => None,
            });
            times.push(time.unwrap_or_default());
        }
    }
    Ok(numbers.into_iter().map(u64::from_be_bytes).zip(times).collect())
}

fn bind(ns: &str, address: SocketAddr) -> UdpSocket {
    must(&format!("UDP socket on {address} in {ns}"), in_ns(ns, || UdpSocket::bind(address)))
}

/// The time of day as in the program's log: UTC.
pub fn clock(time: SystemTime) -> String {
    let ms = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    format!("{:02}:{:02}:{:02}.{:03}", ms / 3_600_000 % 24, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}
