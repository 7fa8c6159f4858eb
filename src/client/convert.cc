// Converts the client's values to and from the schema's structs.
#include "client/connection.h"
#include "edge/sha256.h"

namespace mayfly {

void put(schema::TaskSpec::Builder out, const TaskSpec& spec) {
  using edge::text;
  out.setTemplate(text(spec.template_name));
  auto code = out.initCode();
  switch (spec.kind) {
    case CodeKind::command:
      code.setCommand();
      break;
    case CodeKind::file: {
      auto file = code.initFile();
      file.setName(text(spec.script_name));
      file.setText(edge::data(spec.code));
      break;
    }
    case CodeKind::string:
      code.setString(edge::data(spec.code));
      break;
    case CodeKind::stdinText:
      code.setStdin(edge::data(spec.code));
      break;
    case CodeKind::module:
      code.setModule(text(spec.code));
      break;
    case CodeKind::path:
      code.setPath(text(spec.script_name));
      break;
  }
  auto args = out.initArgs(static_cast<unsigned>(spec.args.size()));
  for (unsigned i = 0; i < spec.args.size(); ++i) args.set(i, text(spec.args[i]));
  auto env = out.initEnv(static_cast<unsigned>(spec.env.size()));
  for (unsigned i = 0; i < spec.env.size(); ++i) {
    env[i].setName(text(spec.env[i].first));
    env[i].setValue(text(spec.env[i].second));
  }
  auto files = out.initFiles(static_cast<unsigned>(spec.files.size()));
  for (unsigned i = 0; i < spec.files.size(); ++i) {
    files[i].setPath(text(spec.files[i].path));
    files[i].setData(edge::data(spec.files[i].data));
    files[i].setMode(spec.files[i].mode);
    if (spec.files[i].blob) files[i].setBlob(edge::data(edge::view(spec.files[i].blob->sha256)));
  }
  out.setStdinData(edge::data(spec.stdin_data));
  out.setStdinOpen(spec.stdin_open);
  auto limits = out.initLimits();
#define MAYFLY_CAP(member, type, standard, unit, lowest, highest, key, Wire, ...) \
  if (spec.limits.member) limits.set##Wire(*spec.limits.member);
  MAYFLY_CAPS(MAYFLY_CAP)
#undef MAYFLY_CAP
  if (spec.seed)
    out.getSeed().setValue(*spec.seed);
  else
    out.getSeed().setNone();
  out.setCollectOutFiles(spec.collect_out_files);
  out.setTenant(text(spec.tenant));
  if (!spec.grants.empty()) {
    auto grants = out.initGrants(static_cast<unsigned>(spec.grants.size()));
    for (unsigned i = 0; i < spec.grants.size(); ++i) {
      grants[i].setName(text(spec.grants[i].name));
      grants[i].setNarrowing(text(spec.grants[i].narrowing));
    }
  }
  if (!spec.tools.empty()) {
    auto tools = out.initTools(static_cast<unsigned>(spec.tools.size()));
    for (unsigned i = 0; i < spec.tools.size(); ++i) {
      tools[i].setName(text(spec.tools[i].name));
      tools[i].setDescription(text(spec.tools[i].description));
      tools[i].setSchemaJson(text(spec.tools[i].schema_json));
    }
  }
  if (spec.detach) {
    auto detach = out.initDetach();
    detach.setLeaseMs(spec.detach->lease_ms);
    detach.setKey(text(spec.detach->key));
  }
}

capnp::MessageSize sizeHint(const TaskSpec& spec) {
  uint64_t bytes = 512 + spec.traceparent.size() + spec.tenant.size() + spec.code.size() +
                   spec.stdin_data.size();
  if (spec.detach) bytes += 32 + spec.detach->key.size();
  for (const auto& arg : spec.args) bytes += 16 + arg.size();
  for (const auto& wish : spec.grants) bytes += 32 + wish.name.size() + wish.narrowing.size();
  for (const auto& tool : spec.tools)
    bytes += 48 + tool.name.size() + tool.description.size() + tool.schema_json.size();
  for (const auto& var : spec.env) bytes += 48 + var.first.size() + var.second.size();
  for (const auto& file : spec.files) bytes += 96 + file.path.size() + file.data.size();
  return {bytes / sizeof(capnp::word) + 8, 2};
}

TaskResult get(schema::TaskResult::Reader in) {
  TaskResult out;
  out.id = in.getId();
  out.template_name = edge::str(in.getTemplate());
  out.verdict = edge::get(in.getVerdict());
  out.exit_code = in.getExitCode();
  out.signal = in.getSignal();
  out.in_grace = in.getInGrace();
  out.reason = edge::str(in.getReason());
  out.cap_value = in.getCapValue();
  out.limits = edge::get(in.getLimits());
  out.usage = edge::get(in.getUsage());
  out.phases = edge::get(in.getPhases());
  out.receipt = edge::get(in.getReceipt());
  out.captured[0] = edge::str(in.getStdout());
  out.captured[1] = edge::str(in.getStderr());
  out.truncated[0] = in.getStdoutTruncated();
  out.truncated[1] = in.getStderrTruncated();
  for (auto file : in.getOutFiles())
    out.out_files.push_back({edge::str(file.getPath()), file.getSizeBytes(), file.getMode(),
                             edge::str(file.getSkipped())});
  out.out_files_note = edge::str(in.getOutFilesNote());
  out.out_files_lost = in.getOutFilesLost();
  return out;
}

TemplateInfo get(schema::TemplateInfo::Reader in) {
  TemplateInfo out;
  out.name = edge::str(in.getName());
  out.description = edge::str(in.getDescription());
  out.mechanism = edge::str(in.getMechanism());
  out.state = edge::str(in.getState());
  out.state_text = edge::str(in.getStateText());
  out.image_digest = edge::str(in.getImageDigest());
  out.defaults = edge::get(in.getDefaults());
  out.maximum = edge::get(in.getMaximum());
  out.boxes = in.getBoxes();
  out.parked = in.getParked();
  out.stocked = in.getStocked();
  out.parked_target = in.getParkedTarget();
  out.stocked_target = in.getStockedTarget();
  out.making = in.getMaking();
  out.waiting = in.getWaiting();
  out.zygotes = in.getZygotes();
  out.renewals = in.getRenewals();
  out.hits = in.getHits();
  out.misses = in.getMisses();
  return out;
}

TaskInfo get(schema::TaskInfo::Reader in) {
  TaskInfo out;
  out.id = in.getId();
  out.template_name = edge::str(in.getTemplate());
  out.state = edge::str(in.getState());
  out.queued_ns = in.getQueuedNs();
  out.started_ns = in.getStartedNs();
  out.now_ns = in.getNowNs();
  out.pid_host = in.getPidHost();
  out.yours = in.getYours();
  return out;
}

ServerInfo get(schema::ServerInfo::Reader in) {
  ServerInfo out;
  out.version = edge::str(in.getVersion());
  out.instance = edge::str(in.getInstance());
  out.protocol = in.getProtocol();
  auto bounds = in.getBounds();
  out.connections_max = bounds.getConnectionsMax();
  out.tasks_per_connection_max = bounds.getTasksPerConnectionMax();
  out.tasks_max = bounds.getTasksMax();
  out.calls_per_connection_max = bounds.getCallsPerConnectionMax();
  out.message_bytes_max = bounds.getMessageBytesMax();
  out.blob_bytes_max = bounds.getBlobBytesMax();
  out.blob_store_bytes_max = bounds.getBlobStoreBytesMax();
  out.blobs_per_user_max = bounds.getBlobsPerUserMax();
  out.uploads_per_connection_max = bounds.getUploadsPerConnectionMax();
  out.blob_ttl_ms = bounds.getBlobTtlMs();
  out.upload_idle_ms = bounds.getUploadIdleMs();
  out.detached_per_user_max = bounds.getDetachedPerUserMax();
  out.detach_lease_ms_max = bounds.getDetachLeaseMsMax();
  return out;
}

DetachedTask get(schema::DetachedTask::Reader in) {
  DetachedTask out;
  out.task = get(in.getTask());
  out.key = edge::str(in.getKey());
  out.lease_left_ms = in.getLeaseLeftMs();
  return out;
}

BlobInfo get(schema::BlobInfo::Reader in) {
  BlobInfo out;
  out.blob.sha256 = edge::sha256From(edge::view(in.getSha256())).value_or(edge::Sha256{});
  out.blob.size_bytes = in.getSizeBytes();
  out.expires_ms = in.getExpiresMs();
  return out;
}

}  // namespace mayfly
