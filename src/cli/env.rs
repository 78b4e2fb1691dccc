//! `firstmate env`: the environment a service gets.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use super::client::{self, UNREACHABLE, encoded};
use super::output::{Failure, json, out};
use super::stream::refusal;
use crate::server::{Reply, Variables, printable};

const EXIT_CODES: &str = "\
Exit codes:
  0  the environment is shown
  1  it cannot be told, or its values were refused
  2  the arguments are wrong
  4  the name is unknown, or no firstmate answers";

/// In place of a value.
const MASK: &str = "********";

/// Show the environment a service gets
///
/// A line a variable, `NAME=VALUE`, quoted for a shell where that is needed. Values are masked unless they are asked for.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct EnvArgs {
    /// A service (web), of which the first instance is shown, or an instance (web.2)
    name: String,
    /// Show the values too; for root and firstmate's own uid
    #[arg(long)]
    show_values: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: super::SocketArg,
}

pub(super) fn run(args: &EnvArgs) -> Result<u8, Failure> {
    let connection = client::connect(args.socket.socket.as_deref(), Some(Instant::now() + Duration::from_secs(5)))?;
    let place = connection.socket.to_string();
    let values = if args.show_values { "&values" } else { "" };
    let answer = connection.request("GET", &format!("/environment?name={}{values}", encoded(&args.name)))?;
    let unreadable = || {
        Failure::new(UNREACHABLE, format!("cannot read the environment from {place}: it answered {}", answer.code))
            .help("is that socket firstmate's, and of the same version as this one?")
    };
    if answer.code != 200 {
        return Err(serde_json::from_slice::<Reply>(&answer.body).map_or_else(|_| unreadable(), |reply| refusal(&reply)));
    }
    let variables: Variables = serde_json::from_slice(&answer.body).map_err(|_| unreadable())?;
    if args.json {
        out(&json("environment", &variables)?);
    } else {
        out(&render(&variables, std::io::stdout().is_terminal()));
    }
    Ok(0)
}

fn render(variables: &Variables, terminal: bool) -> String {
    let mut text = String::new();
    for variable in &variables.variables {
        let value = match &variable.value {
            None => MASK.to_owned(),
            // There is no NUL in an environment, which is all that cannot be quoted.
            Some(value) => shlex::try_quote(value).map_or_else(|_| value.clone(), std::borrow::Cow::into_owned),
        };
        let line = format!("{}={value}", variable.name);
        // A terminal must not do what a value says.
        text.push_str(&if terminal { printable(&line).into_owned() } else { line });
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Variable;

    #[test]
    fn values_are_masked_or_quoted() {
        let of = |name: &str, value: Option<&str>| Variable { name: name.to_owned(), value: value.map(ToOwned::to_owned) };
        let variables =
            [of("A", None), of("B", Some("plain")), of("C", Some("two words")), of("D", Some("it's\n\x1b[2J")), of("E", Some(""))];
        let variables = Variables { instance: "web.1".to_owned(), variables: variables.to_vec() };
        assert_eq!(render(&variables, false), "A=********\nB=plain\nC='two words'\nD=\"it's\n\x1b[2J\"\nE=''\n");
        assert!(render(&variables, true).contains("\nD=\"it's\\n\\u{1b}[2J\"\n"));
    }
}
