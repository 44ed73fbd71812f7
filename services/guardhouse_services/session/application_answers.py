"""What is asked about the use of applications, and what is answered: syntax on the way in, messages on the way out."""

from guardhouse.rules import Client
from guardhouse.session.v1 import session_pb2 as pb
from guardhouse.times import set_time
from guardhouse_services import checks, rules
from guardhouse_services.session import messages
from guardhouse_services.session.usecases.logins import Checked, LoggedIn


def client(sent: pb.ClientFacts) -> Client:
    """Raises InvalidField."""
    country = rules.country(sent.country, "client.country") if sent.country else ""
    return Client.of(checks.address(sent.ip, "client.ip") if sent.ip else "", country)


def checked(of: Checked) -> pb.CheckApplicationResponse:
    made = pb.CheckApplicationResponse(sign_ins=map(messages.sign_in, of.sign_ins))
    _fill(made, of)
    if of.staleness is not None:
        set_time(made.fresh_as_of, of.now - of.staleness)
    return made


def logged_in(of: LoggedIn) -> pb.LogInResponse:
    made = pb.LogInResponse(session_token=of.session_token, binding=of.binding, revision_token=of.revision_token)
    _fill(made, of.checked)
    return made


def _fill(made: pb.CheckApplicationResponse | pb.LogInResponse, of: Checked) -> None:
    verdict, policy, session, _ = of.outcome
    answer = made.answer
    answer.decision = verdict.decision  # type: ignore[assignment]  # the enums' values are the contract's
    answer.reason = verdict.reason  # type: ignore[assignment]
    answer.policy_id = policy
    answer.registration_id = of.registration_id
    set_time(answer.valid_for, verdict.valid_for)
    if session is not None:
        answer.user_id = session.user_id
        set_time(answer.authenticate_time, session.authenticate_time or None)
    set_time(answer.session_expire_time, verdict.session_expire_time)
    if of.application_token:
        made.application_token = of.application_token
        set_time(made.application_token_expire_time, of.application_token_expire_time)
