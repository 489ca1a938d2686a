//! What of QEMU's machine protocol it takes to save memory and to end a machine.
//!
//! One JSON object a line: a command has `execute` and `arguments`, its answer `return` or `error`, and events come in between.
//! Source: QEMU's documentation, "QEMU Machine Protocol Specification".

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A connection to a machine's QMP server.
pub struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Qmp {
    /// Takes a connection and leaves its negotiation behind.
    pub fn new(stream: UnixStream) -> Result<Self> {
        let reader = BufReader::new(stream.try_clone().context("cannot use the socket twice")?);
        let mut qmp = Self { reader, writer: stream };
        qmp.next_object().context("QEMU has no greeting")?;
        qmp.ask("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Writes memory from a machine address on to a file.
    pub fn save_memory(&mut self, address: u64, len_bytes: u64, file: &Path) -> Result<()> {
        self.ask("pmemsave", &json!({ "val": address, "size": len_bytes, "filename": file })).map(drop)
    }

    /// Stops the machine's CPUs.
    pub fn stop(&mut self) -> Result<()> {
        self.ask("stop", &json!({})).map(drop)
    }

    /// Ends QEMU.
    pub fn quit(&mut self) -> Result<()> {
        self.ask("quit", &json!({})).map(drop)
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.writer.write_all(line.as_bytes()).context("cannot write to QEMU")?;
        loop {
            let mut answer = self.next_object().with_context(|| format!("no answer to {command}"))?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {command} {arguments}: {error}");
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    fn next_object(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.reader.read_line(&mut line).context("cannot read from QEMU")? == 0 {
            bail!("QEMU is gone");
        }
        serde_json::from_str(&line).with_context(|| format!("QEMU says {line:?}, which is not JSON"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_passed_over_and_errors_are_told() {
        let (here, mut there) = UnixStream::pair().unwrap();
        let lines = [
            r#"{"QMP": {"version": {}}}"#,
            r#"{"return": {}}"#,
            r#"{"event": "STOP"}"#,
            r#"{"return": {}}"#,
            r#"{"error": {"class": "GenericError", "desc": "no such file"}}"#,
        ];
        there.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
        let mut qmp = Qmp::new(here).unwrap();
        qmp.stop().unwrap();
        let error = qmp.save_memory(4096, 1, Path::new("/x")).unwrap_err().to_string();
        assert!(error.contains("no such file") && error.contains("4096"), "{error}");
        drop(there);
        assert!(qmp.quit().is_err());
    }
}
