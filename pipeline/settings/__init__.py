"""
Every setting, where its value comes from, and the API key.

    flags  >  OVERNIGHT_<KEY>  >  --config FILE or ./overnight.toml  >  user config  >  default

In go flags, variables and TOML files; out comes one frozen `Settings`, or one `SettingsError`
that names everything wrong with them.

    grammar   how values are written: durations, sizes, rates, limits by the hour, addresses, globs,
              names of speakers; the name that was meant; how texts are coded
    hooks     Hooks: whom a run tells of its start and end
    model     Settings: every key with its unit, default, range and reason
    sources   load_settings(flags, config=, environ=)  ->  Settings
              load_told(flags, config=, environ=)      ->  Settings: whom to tell of wrong ones
              origins(flags, config=, environ=)        ->  {"poll_interval": "./overnight.toml", …}
    spelling  spelled(value)                           ->  how a settings file spells it
    surroundings  what a machine or cluster has put around the program
    key       require_key(settings, environ)           ->  the API key, or KeyRefused
"""

from pipeline.settings.grammar import (
    Address,
    Rate,
    Timetable,
    Window,
    address_in,
    glob_pattern,
    nearest,
    parse_duration,
    parse_names,
    parse_size,
    plain_text,
)
from pipeline.settings.hooks import HOOK_VARIABLES, Heartbeat, Hooks, is_url
from pipeline.settings.key import exposed, key_fingerprint, read_api_key, require_key
from pipeline.settings.model import FORMATS, PROVIDERS, Rule, Settings, Timeouts, Uploads
from pipeline.settings.sources import load_settings, load_told, origins
from pipeline.settings.spelling import spelled, spelled_key
from pipeline.settings.surroundings import home_of, odd_variables

__all__ = [
    "FORMATS",
    "HOOK_VARIABLES",
    "PROVIDERS",
    "Address",
    "Heartbeat",
    "Hooks",
    "Rate",
    "Rule",
    "Settings",
    "Timeouts",
    "Timetable",
    "Uploads",
    "Window",
    "address_in",
    "exposed",
    "glob_pattern",
    "home_of",
    "is_url",
    "key_fingerprint",
    "load_settings",
    "load_told",
    "nearest",
    "odd_variables",
    "origins",
    "parse_duration",
    "parse_names",
    "parse_size",
    "plain_text",
    "read_api_key",
    "require_key",
    "spelled",
    "spelled_key",
]
