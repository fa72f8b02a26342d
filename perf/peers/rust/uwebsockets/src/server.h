#pragma once

struct Chat;

bool serve(const Chat &chat);
