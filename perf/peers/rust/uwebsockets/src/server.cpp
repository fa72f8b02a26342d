// The server on uWebSockets: a topic a room, which the library fans out once a turn of its loop, all of a turn's messages
// to a member in one write. One thread, epoll, plain text.

#include "uwebsockets-peer/src/server.h"

#include <cctype>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

#include "App.h"
#include "uwebsockets-peer/src/main.rs.h"

namespace {

struct Seat {
    std::string room;
    std::optional<rust::Box<Guest>> guest;
};

using Socket = uWS::WebSocket<false, true, Seat>;

rust::Str text_of(std::string_view text) { return {text.data(), text.size()}; }
std::string_view view_of(const rust::String &text) { return {text.data(), text.size()}; }

// The UUID in /ws/chat/UUID/, in lower case.
std::string room_of(uWS::HttpRequest *request) {
    constexpr std::string_view prefix = "/ws/chat/";
    std::string room{request->getUrl().substr(prefix.size())};
    if (room.ends_with('/')) room.pop_back();
    for (char &letter : room) letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
    return room;
}

std::string_view token_of(uWS::HttpRequest *request) {
    constexpr std::string_view scheme = "Token ";
    auto token = request->getQuery("token");
    auto header = request->getHeader("authorization");
    return token.empty() && header.starts_with(scheme) ? header.substr(scheme.size()) : token;
}

}  // namespace

bool serve(const Chat &chat) {
    uWS::App app;
    uWS::App::WebSocketBehavior<Seat> behavior;
    behavior.compression = uWS::DISABLED;
    behavior.maxPayloadLength = 64 * 1024;
    behavior.maxBackpressure = 1024 * 1024;
    behavior.closeOnBackpressureLimit = true;
    behavior.upgrade = [&chat](auto *response, auto *request, auto *context) {
        auto room = room_of(request);
        auto guest = chat.enter(text_of(room), text_of(token_of(request)));
        response->template upgrade<Seat>({std::move(room), std::move(guest)},
                                         request->getHeader("sec-websocket-key"),
                                         request->getHeader("sec-websocket-protocol"),
                                         request->getHeader("sec-websocket-extensions"), context);
    };
    behavior.open = [](Socket *socket) {
        auto *seat = socket->getUserData();
        auto welcome = (*seat->guest)->welcome(text_of(seat->room));
        if (welcome.code != 0) {
            socket->end(welcome.code, view_of(welcome.text));
            return;
        }
        socket->subscribe(seat->room);
        socket->send(view_of(welcome.text), uWS::TEXT);
    };
    behavior.message = [&app](Socket *socket, std::string_view text, uWS::OpCode opcode) {
        if (opcode != uWS::TEXT) {
            socket->end(1003, "Binary messages are not spoken");
            return;
        }
        auto *seat = socket->getUserData();
        auto reply = (*seat->guest)->say({reinterpret_cast<const uint8_t *>(text.data()), text.size()});
        if (reply.to_all) {
            app.publish(seat->room, view_of(reply.text), uWS::TEXT);
        } else {
            socket->send(view_of(reply.text), uWS::TEXT);
        }
    };
    bool listens = false;
    app.ws<Seat>("/ws/chat/*", std::move(behavior));
    app.listen("127.0.0.1", 0, [&listens](auto *socket) {
        if (socket == nullptr) return;
        listens = true;
        std::printf("uWebSockets is listening on http://127.0.0.1:%d\n",
                    us_socket_local_port(0, reinterpret_cast<us_socket_t *>(socket)));
        std::fflush(stdout);
    });
    app.run();
    return listens;
}
