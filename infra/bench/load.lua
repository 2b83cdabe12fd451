-- What wrk sends, and what it tells at the end: one line of JSON.
--   wrk ... -s load.lua URL -- KIND PREFIX CYCLE
-- KIND: order (one event a request) or batch (500, as NDJSON). PREFIX: of every key. CYCLE: after so many events the
-- keys begin anew, so that all are duplicates; 0: never. The events are those of bodies.py.
local n, kind, prefix, cycle = 0, "order", "", 0
local NOTE = "leave it with the neighbours on the second floor, thank you!"
local ORDER = '{"source":"till-%d","schema_version":"1.0","idempotency_key":"%s-%d","payload":{"order":"o-%d",' ..
  '"amount":%d,"currency":"KES","lines":[{"sku":"A1","quantity":2},{"sku":"B2","quantity":1}],"note":"' .. NOTE .. '"}}'

function init(args)
  kind, prefix, cycle = args[1], args[2], tonumber(args[3])
end

local function order()
  local i = n
  n = n + 1
  if cycle > 0 and n >= cycle then n = 0 end
  return string.format(ORDER, i % 600, prefix, i, i, i)
end

function request()
  if kind == "batch" then
    local lines = {}
    for i = 1, 500 do lines[i] = order() end
    return wrk.format("POST", nil, {["Content-Type"] = "application/x-ndjson"}, table.concat(lines, "\n"))
  end
  return wrk.format("POST", nil, {["Content-Type"] = "application/json"}, order())
end

function done(summary, latency, requests)
  local e, points = summary.errors, {}
  for i, p in ipairs({10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.99}) do
    points[i] = string.format("[%g,%.3f]", p, latency:percentile(p) / 1000)
  end
  io.write(string.format('RESULT {"answered":%d,"seconds":%.6f,"refused":%d,"broken":%d,"curve":[%s]}\n',
    summary.requests, summary.duration / 1e6, e.status, e.connect + e.read + e.write + e.timeout,
    table.concat(points, ",")))
end
