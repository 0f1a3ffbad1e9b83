//! Options that take one of a list of names: what `--help` lists, and what a wrong one is told.

use crate::choice::Choice;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

/// Takes any of a type's names.
pub fn choice<T: Choice>() -> impl TypedValueParser<Value = T> {
    choice_of(T::ALL)
}

/// Takes the names of these alone.
pub fn choice_of<T: Choice>(choices: &[T]) -> impl TypedValueParser<Value = T> + use<T> {
    let values = choices.iter().map(|choice| {
        // Help texts have no period at their end.
        let about = choice.about();
        let help = about.strip_suffix('.').unwrap_or(&about).to_owned();
        PossibleValue::new(choice.name()).aliases(choice.aliases()).help(help)
    });
    PossibleValuesParser::new(values).try_map(|name| name.parse::<T>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directions::Method;
    use clap::{Arg, Command};

    fn command() -> Command {
        Command::new("fit").arg(Arg::new("method").long("method").value_parser(choice_of(Method::of_fits())))
    }

    fn parsed(name: &str) -> Result<Method, clap::Error> {
        let matches = command().try_get_matches_from(["fit", "--method", name])?;
        Ok(matches.get_one::<Method>("method").copied().unwrap())
    }

    #[test]
    fn options_take_the_names_and_aliases_of_their_list() {
        assert_eq!(parsed("das2d").unwrap(), Method::Das2d);
        assert_eq!(parsed("random").unwrap(), Method::RandomDirection);
        let message = parsed("ccs").unwrap_err().to_string();
        assert!(message.contains("das2d, das3d]"), "{message}");
        assert!(parsed("kmean").unwrap_err().to_string().contains("'kmeans'"));
    }

    #[test]
    fn help_tells_what_every_name_means() {
        let help = command().render_long_help().to_string();
        assert!(help.contains("- svd:") && help.contains("First right singular vector"), "{help}");
        assert!(!help.contains("ccs") && !help.contains("embeddings."), "{help}");
    }
}
