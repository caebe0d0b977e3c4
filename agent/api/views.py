# The HTTP API

Every agent serves the same API on its `api_port` (9999), over TLS 1.3. Any of them will do: what needs the coordinator is
forwarded to it. The exact schemas are in the OpenAPI 3.1 document that each agent serves at `/api/v1/openapi.json`; this
page says what they don't.

## Asking with curl

An agent's certificate is signed by the cluster's own key and names the agent's id, not its address. So curl needs the
cluster's certificate and is told where that name is:

```sh
export MUSTER_HOME=~/.local/state/muster/local/home       # the cluster home
AGENT=$(agent members --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["members"][0]["id"])')
curl --cacert $MUSTER_HOME/cluster.crt --connect-to ::127.0.0.1:9999 \
    -H "Authorization: Bearer $(agent token)" \
    https://$AGENT.agent.muster/api/v1/members
```

The id has to be of the agent at that address. On a host of the cluster, root and the members of the group `muster` may
read without a token:

```sh
curl --unix-socket /run/muster/agent.sock http://localhost/api/v1/deployment/status
```

## Routes

| method | path | access | what |
|---|---|---|---|
| GET | `/health` | open | Whether this agent serves and knows a coordinator; status 503 when it doesn't. |
| GET | `/api/v1/deployment/status` | read | The whole cluster: hosts, stacks, replicas, problems. |
| GET | `/api/v1/deployment/api-stats` | read | Requests to this agent's API since its start. |
| GET | `/api/v1/members` | read | The members, as the agent that answers sees them. |
| GET | `/api/v1/services` | read | All services, and where their replicas are reached. |
| POST | `/api/v1/instructions` | instruction | Brings a signed instruction into the ledger. |
| GET | `/api/v1/instructions/{jti}` | read | What became of an instruction. |
| GET | `/api/v1/targets/{target}` | read | A target's newest change; the next instruction takes its revision + 1. |
| GET | `/api/v1/stacks/{stack}` | read | The deploy in force, without environment values. |
| GET | `/api/v1/stacks/{stack}/logs` | read | Lines of the replicas' output, one JSON object each. |
| GET | `/api/v1/events` | read | What happens, as server-sent events. |
| GET | `/api/v1/openapi.json` | read | The OpenAPI document. |
| GET | `/metrics` | read | Metrics in Prometheus' text format. |

Access: `open` is for anybody. `read` wants an access token (below), or the local socket. `instruction` wants the
instruction's own token as the bearer.

Targets are `stack:<name>`, `operator:<name>`, `member:<id>`, `host:<id>`, `secret:<name>` and `cluster`.

## Access tokens

`agent token` prints a JWT of type `access+jwt`, signed with the operator's key, that reads and nothing else, for an hour at
most (`agent token --ttl 10m`). It ends early when the operator is revoked. An operator who is limited to some stacks sees
the status of all, and the definition and logs of those only.

## Status

`GET /api/v1/deployment/status` and `agent status --json` are the same document. An agent that isn't the coordinator asks
it; when none answers within a second, it tells what it sees itself, and `stale` is true.

```json Status
{
  "version": 1,
  "cluster": { "id": "wsuwi4er5hm7jh3l", "epoch": 1, "name": "local" },
  "answered_by": { "id": "qhytkevhrd2fux4imhosswl5mr", "name": "n2" },
  "as_of": "2024-01-15T10:30:00.000Z",
  "stale": false,
  "coordinator": { "id": "qhytkevhrd2fux4imhosswl5mr", "name": "n2" },
  "term": 1,
  "quorum": { "voters": 3, "reachable": 3, "tolerates": 1 },
  "hosts": [
    {
      "id": "qhytkevhrd2fux4imhosswl5mr",
      "name": "n2",
      "address": "127.0.0.2",
      "role": "coordinator",
      "state": "alive",
      "fit": true,
      "reasons": [],
      "cordoned": false,
      "labels": {},
      "agent_version": "0.1.0",
      "runtime": [{ "name": "process", "available": true, "version": "sessions" }],
      "last_seen": "2024-01-15T10:30:00.000Z"
    }
  ],
  "stacks": [
    {
      "name": "web",
      "revision": 1,
      "phase": "healthy",
      "reason": "",
      "changed_by": "local",
      "changed_at": "2024-01-15T10:29:00.000Z",
      "services": [
        {
          "name": "web",
          "wanted": 1,
          "healthy": 1,
          "pending": "",
          "replicas": [
            {
              "slot": 1,
              "host": "n2",
              "state": "healthy",
              "reason": "",
              "container_id": "23008:481480",
              "container_name": "web-web-1",
              "image": null,
              "revision": 1,
              "ports": [{ "container_port": 8080, "host_port": 8080 }],
              "restarts": 0
            }
          ]
        }
      ]
    }
  ],
  "problems": [],
  "instances": {
    "web-web-1": {
      "host": "127.0.0.2",
      "port": 8080,
      "status": "healthy",
      "container_id": "23008:481480",
      "last_seen": "2024-01-15T10:30:00.000Z"
    }
  },
  "network_services": 4,
  "api_requests_total": 1250,
  "health_score": 100.0
}
```

`reason`, `pending`, and `what` and `fix` of a problem are sentences for people. `network_services` counts the live beacons
that the answering agent hears, and `api_requests_total` its own requests. `health_score` is 100 × healthy / wanted.

## Instructions

A change is a JSON body and a JWT that binds it. The JWT's header is exactly `alg: EdDSA`, `typ: deploy+jwt` and `kid`, the
first 32 hexadecimal digits of the SHA-256 of the operator's public key. Its claims are exactly these:

| claim | what |
|---|---|
| `iss` | the operator's name |
| `aud` | `<cluster id>.<epoch>` |
| `iat`, `exp` | whole seconds; at most 300 s apart |
| `jti` | 128 random bits, hexadecimal |
| `act` | what to do |
| `target` | what it changes |
| `rev` | the target's revision + 1 |
| `bdg` | the SHA-256 of the body's exact bytes, hexadecimal |

| act | target | scope | body |
|---|---|---|---|
| `deploy` | `stack:<name>` | deploy | `Stack` |
| `remove` | `stack:<name>` | deploy | `Remove` |
| `scale` | `stack:<name>` | operate | `Scale` |
| `restart` | `stack:<name>` | operate | `Services` |
| `stop` | `stack:<name>` | operate | `Services` |
| `start` | `stack:<name>` | operate | `Services` |
| `enrol` | `member:<id>` | admin | `Enrol` |
| `expel` | `member:<id>` | admin | `Expel` |
| `grant` | `operator:<name>` | admin | `Grant` |
| `revoke` | `operator:<name>` | admin | `Revoke` |
| `cancel` | any | operate on a stack, else admin | `Cancel` |

`agent` signs what concerns stacks, `bootstrap install` enrols and `bootstrap uninstall` expels. Grant, revoke and cancel have
no command of their own yet: `agent.client.Client.submit` signs and sends any of them.

The answer comes from the ledger, once a majority has stored the instruction and it was applied:

```json InstructionResult
{
  "outcome": "applied",
  "target": "stack:web",
  "revision": 2,
  "digest": "a40ac50462aac705be7dc622c09071c67985638cb9f091cbc3c2f0e81eecdc89",
  "jti": "ce958888faaa70c8c12d5605ffd2c7d9",
  "by": "local",
  "at": 1705314600000,
  "index": 12
}
```

- The same instruction again gets the same answer, with `repeated`. So after a timeout, send the very same token and body
  again; after `exp`, ask `/api/v1/instructions/{jti}`, which knows the newest instruction of each target.
- Another instruction for a revision that is taken gets 409, and the answer names who took it and when. Nothing is lost
  silently: read the target, and make the change again on top.
- A refused instruction (422, 404, …) takes no revision, and can be corrected.

## Problems

Errors are [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problems, `application/problem+json`, with two more members:
`where` names the place, and `fix` says what to do next. For an instruction that the ledger refused, `result` is its answer.

```json ProblemDetails
{
  "type": "urn:muster:problem:not-found",
  "title": "Not found",
  "status": 404,
  "detail": "there is no such stack",
  "instance": "/api/v1/stacks/none",
  "where": "stack:none",
  "fix": "Stacks here: web.",
  "result": null
}
```

| kind | status | what |
|---|---|---|
| `bad-input` | 400 | A parameter, header or body isn't what it must be. |
| `not-authenticated` | 401 | No token, or one that isn't valid now. |
| `not-allowed` | 403 | The operator may not do this. |
| `not-found` | 404 | No such thing. |
| `conflict` | 409 | Another change was first. |
| `port-taken` | 409 | A host port can't be bound. |
| `too-large` | 413 | Over a bound, which the detail names. |
| `unprocessable` | 422 | Well-formed and signed, but it can't be done as it is. |
| `too-many` | 429 | Over 50 requests a second, or 1000 instructions under way; `Retry-After` where it is known. |
| `error` | 500 | A fault of the agent. |
| `storage` | 500 | The ledger or a key file can't be read or written. |
| `deployment-failed` | 500 | Only in the command: a deployment ended in `failed`. |
| `unreachable` | 502 | The agent has no link with the one that has the answer. |
| `no-majority` | 503 | No coordinator, or no majority behind it. |
| `runtime-unavailable` | 503 | The container engine doesn't answer. |
| `timed-out` | 504 | No answer within 10 s; the change may still happen. |

## Events

`GET /api/v1/events` is a stream of server-sent events: the event's name is its `kind`, the data is an `Event`.

```json Event
{
  "id": 2,
  "at": "2024-01-15T10:30:00.000Z",
  "kind": "replica",
  "what": "web/web.1 on n1 is healthy",
  "host": "n1",
  "stack": "web",
  "service": "web",
  "slot": 1,
  "state": "healthy"
}
```

Each agent keeps its newest 1000 events and numbers them for itself. `?recent=true` tells the kept ones first,
`?follow=false` ends after them, and `Last-Event-ID` goes on where a stream of the same agent ended. The coordinator hears
most; an agent with listeners follows it.

## Logs

`GET /api/v1/stacks/{stack}/logs` gives one JSON object a line, from all hosts, in the order in which they arrive.
Parameters: `service`, `slot`, `tail` (lines of each replica, at most 10000), `since` (RFC 3339, UTC) and `follow`. An empty
line every 15 s is a sign of life.

```json LogLine
{ "stack": "web", "service": "web", "slot": 1, "host": "n1", "at": "", "stream": "stdout", "line": "listening" }
```

## Bounds

| what | bound |
|---|---|
| a body | 1 MiB, within 15 s |
| requests of one address | 50 a second, 200 at once |
| connections | 512, of one address 64 |
| open streams | 128 |
| TLS handshake | 5 s |
| an idle connection | 15 s |
