//! What a person sees: the real binary on a real terminal (in tmux).

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::server::Server;
use crate::tool::skip;

/// A terminal of its own.
struct Tmux {
    /// Its socket, and what the shell in it writes.
    folder: tempfile::TempDir,
}

impl Tmux {
    /// Runs the generator against `server` in a terminal of `width` and `height`; `before` stands in
    /// front of the command. `None` where there is no tmux.
    fn start(
        test: &str,
        (width, height): (u16, u16),
        before: &str,
        server: &Server,
        args: &str,
    ) -> Option<Tmux> {
        if Command::new("tmux").arg("-V").stdout(Stdio::null()).status().is_err() {
            skip(test, "tmux is missing (apt-get install tmux)");
            return None;
        }
        let tmux = Tmux { folder: tempfile::tempdir().unwrap() };
        let (program, port) = (env!("CARGO_BIN_EXE_logboom-loadgen"), server.port);
        // The shell outlives a Ctrl-C, which goes to all of the terminal's foreground.
        let script = format!(
            "trap : INT; echo above; stty -a >before; \
             {before} {program} --target tcp://127.0.0.1:{port} {args}; \
             echo \"exit $?\"; stty -a >after; exec sleep 60"
        );
        let size = [width.to_string(), height.to_string()];
        tmux.tell(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            &size[0],
            "-y",
            &size[1],
            &script,
        ]);
        Some(tmux)
    }

    fn tell(&self, args: &[&str]) -> String {
        let output = Command::new("tmux")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .current_dir(self.folder.path())
            .args(["-u", "-S", "socket"])
            .args(args)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// What it shows, and what has scrolled off.
    fn screen(&self) -> String {
        self.tell(&["capture-pane", "-p", "-S", "-"])
    }

    fn keys(&self, key: &str) {
        self.tell(&["send-keys", key]);
    }

    fn resize(&self, width: u16, height: u16) {
        let size = [width.to_string(), height.to_string()];
        self.tell(&["resize-window", "-x", &size[0], "-y", &size[1]]);
    }

    /// Waits until it shows `text`.
    fn until(&self, text: &str) -> String {
        let begin = Instant::now();
        loop {
            let screen = self.screen();
            if screen.contains(text) {
                return screen;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "no \"{text}\" in:\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(file)).unwrap_or_default()
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.tell(&["kill-server"]);
    }
}

fn lines_with(screen: &str, begin: &str) -> usize {
    screen.lines().filter(|line| line.starts_with(begin)).count()
}

#[test]
fn a_terminal_shows_the_run_and_its_last_state_stays_above_the_summary() {
    let server = Server::honest();
    let name = "a_terminal_shows_the_run";
    let Some(tmux) = Tmux::start(name, (100, 40), "", &server, "-r 200 -z 3") else { return };
    let screen = tmux.until("/s of 200/s offered");
    for word in ["tcp://127.0.0.1:", "constant 200", "5 workers", "run ", "response   p50 "] {
        assert!(screen.contains(word), "{word}:\n{screen}");
    }
    assert!(screen.contains("validity ") && screen.contains("━"), "{screen}");
    let screen = tmux.until("exit 0");
    for begin in ["above", "rate ", "response   p50", "messages   600 ok", "PASS after", "exit 0"] {
        assert_eq!(lines_with(&screen, begin), 1, "{begin}:\n{screen}");
    }
    let (picture, summary) =
        (screen.find("PASS after").unwrap(), screen.find("PASS: 600").unwrap());
    assert!(picture < summary, "{screen}");
}

#[test]
fn ctrl_c_leaves_the_terminal_as_it_was() {
    let server = Server::honest();
    let name = "ctrl_c_leaves_the_terminal_as_it_was";
    let Some(tmux) = Tmux::start(name, (100, 40), "", &server, "-r 200 -z 60") else { return };
    tmux.until("/s of 200/s offered");
    tmux.keys("C-c");
    let screen = tmux.until("exit 130");
    assert!(screen.contains("INTERRUPTED after") && screen.contains("INTERRUPTED: "), "{screen}");
    assert_eq!(lines_with(&screen, "rate "), 1, "{screen}");
    tmux.until("exit 130");
    let state = tmux.tell(&["display-message", "-p", "#{cursor_flag} #{alternate_on} #{cursor_x}"]);
    assert_eq!(state.trim(), "1 0 0", "cursor shown, no other screen, at the beginning of a line");
    let begin = Instant::now();
    while tmux.read("after").is_empty() && begin.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(tmux.read("before"), tmux.read("after"));
}

#[test]
fn a_terminal_may_change_its_size_and_be_tiny() {
    let server = Server::honest();
    let name = "a_terminal_may_change_its_size_and_be_tiny";
    let Some(tmux) = Tmux::start(name, (100, 30), "", &server, "-r 200 -z 4") else { return };
    tmux.until("/s of 200/s offered");
    for (width, height) in [(40, 30), (40, 5), (9, 3), (100, 30)] {
        tmux.resize(width, height);
        std::thread::sleep(Duration::from_millis(600));
        let screen = tmux.screen();
        assert!(!screen.contains("panicked"), "{width}x{height}:\n{screen}");
    }
    let screen = tmux.until("exit 0");
    assert!(screen.contains("PASS: 800 of 800"), "{screen}");
    assert!(screen.contains("above"), "what was there before stays:\n{screen}");
    let rows = lines_with(&screen, "messages   ");
    assert!(rows <= 2, "no trail of pictures behind it:\n{screen}");
}

#[test]
fn colours_are_left_out_where_they_are_not_wanted() {
    let server = Server::honest();
    for (name, before, has_color) in
        [("colours", "env -u NO_COLOR", true), ("no_colours", "env NO_COLOR=1", false)]
    {
        let Some(tmux) = Tmux::start(name, (100, 40), before, &server, "-r 200 -z 2") else {
            return;
        };
        tmux.until("exit 0");
        let screen = tmux.tell(&["capture-pane", "-p", "-e", "-S", "-"]);
        assert_eq!(screen.contains('\u{1b}'), has_color, "{name}:\n{screen}");
        assert!(screen.contains("PASS after"), "{screen}");
    }
}

#[test]
fn quiet_shows_only_the_summary_and_a_dumb_terminal_gets_lines() {
    let server = Server::honest();
    let Some(tmux) = Tmux::start("quiet", (100, 40), "", &server, "-r 200 -z 1500ms --quiet")
    else {
        return;
    };
    let screen = tmux.until("exit 0");
    assert!(screen.lines().any(|line| line.starts_with("PASS:")), "{screen}");
    assert!(!screen.contains("/s of "), "{screen}");

    let before = "env TERM=dumb";
    let Some(tmux) = Tmux::start("dumb", (100, 40), before, &server, "-r 200 -z 2500ms") else {
        return;
    };
    let screen = tmux.until("exit 0");
    let lines = screen.lines().filter(|line| line.contains("/s of ")).count();
    assert_eq!(lines, 2, "{screen}");
}
