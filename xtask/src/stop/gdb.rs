//! What of the gdb remote serial protocol it takes to stop a machine and look into it.
//!
//! A packet is `$` payload `#` and the sum of the payload's bytes modulo 256 in two hexadecimal digits; each is acknowledged with `+`.
//! Sources: gdb's manual, appendix "GDB Remote Serial Protocol"; QEMU's documentation of `PhyMemMode`, which makes addresses of memory
//! packets machine addresses.

use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

/// Bytes of memory in one packet: QEMU takes 4096 characters.
const PIECE_BYTES: usize = 1024;

/// A connection to a machine's gdb server. The machine stands still unless it was told to go on.
pub struct Gdb {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

/// Why a machine that was told to go on does not run any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// It stopped, at a breakpoint or because somebody asked for it.
    Stopped,
    /// It is no more.
    Ended,
}

/// The general registers of a CPU in 64-bit mode that somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// rdi
    pub rdi: u64,
    /// r8
    pub r8: u64,
    /// r10
    pub r10: u64,
    /// rip
    pub rip: u64,
}

impl Gdb {
    /// Takes a connection; addresses of memory are machine addresses from here on.
    pub fn new(stream: UnixStream) -> Result<Self> {
        let reader = BufReader::new(stream.try_clone().context("cannot use the socket twice")?);
        let mut gdb = Self { reader, writer: stream };
        gdb.command("Qqemu.PhyMemMode:1").context("QEMU cannot be asked for machine addresses")?;
        Ok(gdb)
    }

    /// Stops the machine whenever it is about to execute the instruction at this virtual address.
    pub fn set_breakpoint(&mut self, address: u64) -> Result<()> {
        self.command(&format!("Z1,{address:x},1")).with_context(|| format!("no breakpoint at {address:#x}"))
    }

    /// The opposite.
    pub fn clear_breakpoint(&mut self, address: u64) -> Result<()> {
        self.command(&format!("z1,{address:x},1")).with_context(|| format!("the breakpoint at {address:#x} stays"))
    }

    /// Lets the machine run, and does not wait for anything.
    pub fn resume(&mut self) -> Result<()> {
        self.send("c")
    }

    /// Waits until a machine that runs does not run any more.
    pub fn wait(&mut self) -> Result<Pause> {
        match self.receive()? {
            None => Ok(Pause::Ended),
            Some(text) if text.starts_with(['S', 'T']) => Ok(Pause::Stopped),
            Some(text) if text.starts_with(['W', 'X']) => Ok(Pause::Ended),
            Some(text) => bail!("the gdb server says {text:?} while the machine runs"),
        }
    }

    /// Takes all breakpoints away and lets the machine run for good.
    pub fn detach(&mut self) -> Result<()> {
        self.command("D")
    }

    /// Registers of the CPU that stopped.
    pub fn registers(&mut self) -> Result<Registers> {
        // rax rbx rcx rdx rsi rdi rbp rsp r8 to r15 rip, 8 bytes each.
        let all = self.ask_bytes("g")?;
        let at = |index: usize| {
            let bytes = all.get(index * 8..index * 8 + 8).context("the gdb server's registers are too short")?;
            anyhow::Ok(u64::from_le_bytes(bytes.try_into()?))
        };
        Ok(Registers { rdi: at(5)?, r8: at(8)?, r10: at(10)?, rip: at(16)? })
    }

    /// Bytes of memory from a machine address on.
    pub fn read(&mut self, address: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let piece = PIECE_BYTES.min(len - bytes.len());
            let at = address + bytes.len() as u64;
            let read = self.ask_bytes(&format!("m{at:x},{piece:x}")).with_context(|| format!("at {at:#x}"))?;
            ensure!(read.len() == piece, "{} of {piece} bytes could be read at {at:#x}", read.len());
            bytes.extend(read);
        }
        Ok(bytes)
    }

    /// Puts bytes into memory at a machine address.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        for (index, piece) in bytes.chunks(PIECE_BYTES).enumerate() {
            let at = address + (index * PIECE_BYTES) as u64;
            self.command(&format!("M{at:x},{:x}:{}", piece.len(), to_hex(piece)))
                .with_context(|| format!("cannot write at {at:#x}"))?;
        }
        Ok(())
    }

    fn command(&mut self, payload: &str) -> Result<()> {
        let answer = self.ask(payload)?;
        ensure!(answer == "OK", "the gdb server answers {answer:?} to {payload:?}");
        Ok(())
    }

    fn ask_bytes(&mut self, payload: &str) -> Result<Vec<u8>> {
        let answer = self.ask(payload)?;
        from_hex(&answer).with_context(|| format!("the gdb server answers {answer:?} to {payload:?}"))
    }

    fn ask(&mut self, payload: &str) -> Result<String> {
        self.send(payload)?;
        self.receive()?.with_context(|| format!("the gdb server is gone and has not answered {payload:?}"))
    }

    fn send(&mut self, payload: &str) -> Result<()> {
        self.writer.write_all(packet(payload).as_bytes()).context("cannot write to the gdb server")
    }

    /// The next packet; none if the machine is gone.
    fn receive(&mut self) -> Result<Option<String>> {
        let mut skipped = Vec::new();
        let mut payload = Vec::new();
        let mut sum = [0; 2];
        let read = (|| {
            self.reader.read_until(b'$', &mut skipped)?;
            self.reader.read_until(b'#', &mut payload)?;
            self.reader.read_exact(&mut sum)
        })();
        match read {
            Ok(()) => {}
            Err(error) if is_end(&error) => return Ok(None),
            Err(error) => return Err(error).context("cannot read from the gdb server"),
        }
        payload.pop();
        let text = String::from_utf8(payload).context("the gdb server's packet is no text")?;
        ensure!(
            sum == *checksum(&text).as_bytes(),
            "the gdb server's packet {text:?} has checksum {}",
            String::from_utf8_lossy(&sum)
        );
        // A machine that ends does not wait for the acknowledgement of its last packet.
        match self.writer.write_all(b"+") {
            Err(error) if !is_end(&error) => Err(error).context("cannot write to the gdb server"),
            _ => Ok(Some(text)),
        }
    }
}

fn is_end(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn checksum(payload: &str) -> String {
    format!("{:02x}", payload.bytes().fold(0u8, u8::wrapping_add))
}

fn packet(payload: &str) -> String {
    format!("${payload}#{}", checksum(payload))
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Result<Vec<u8>> {
    ensure!(text.len().is_multiple_of(2) && text.is_ascii(), "not a row of bytes");
    (0..text.len()).step_by(2).map(|at| Ok(u8::from_str_radix(&text[at..at + 2], 16)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_carry_the_sum_of_their_bytes() {
        // 'O' + 'K' = 0x4f + 0x4b = 0x9a.
        assert_eq!(packet("OK"), "$OK#9a");
        assert_eq!(packet(""), "$#00");
    }

    #[test]
    fn bytes_come_back_from_hexadecimal() {
        assert_eq!(from_hex(&to_hex(&[0, 0x7f, 0xff])).unwrap(), [0, 0x7f, 0xff]);
        assert!(from_hex("E0x").is_err() && from_hex("0").is_err());
    }

    /// A server that says what it is told to, and what the client has sent it.
    fn served(answers: &str) -> (Gdb, UnixStream) {
        let (here, mut there) = UnixStream::pair().unwrap();
        there.write_all(answers.as_bytes()).unwrap();
        (Gdb::new(here).unwrap(), there)
    }

    #[test]
    fn answers_are_read_and_acknowledged() {
        let registers = packet(&(0..17u64).map(|n| to_hex(&n.to_le_bytes())).collect::<String>());
        let (mut gdb, mut there) = served(&format!("+$OK#9a+{registers}+{}", packet("T05thread:01;")));
        assert_eq!(gdb.registers().unwrap(), Registers { rdi: 5, r8: 8, r10: 10, rip: 16 });
        gdb.resume().unwrap();
        assert_eq!(gdb.wait().unwrap(), Pause::Stopped);
        there.write_all(packet("W21").as_bytes()).unwrap();
        assert_eq!(gdb.wait().unwrap(), Pause::Ended);
        drop(gdb);
        let mut sent = String::new();
        there.read_to_string(&mut sent).unwrap();
        assert_eq!(sent, format!("{}+$g#67+$c#63++", packet("Qqemu.PhyMemMode:1")));
    }

    #[test]
    fn a_damaged_packet_and_a_refusal_are_errors_and_an_end_is_none() {
        let (mut gdb, _there) = served("+$OK#9a+$E14#aa");
        assert!(gdb.set_breakpoint(0).unwrap_err().to_string().contains("no breakpoint"));
        let (mut gdb, there) = served("+$OK#9a+$OK#9b");
        assert!(gdb.set_breakpoint(0).is_err());
        drop(there);
        assert_eq!(gdb.wait().unwrap(), Pause::Ended);
    }
}
